//! A Kubernetes PersistentVolume for a volume, as YAML.
//!
//! What Kubernetes would refuse is refused here first, with an error that names the option. The
//! fields have the order of `kubectl get -o yaml`. No name can become a number, a boolean or a
//! second document: the serializer quotes what YAML would read as anything but a string.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{NFSVolumeSource, PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use super::args::AccessMode;
use super::text;
use crate::label::{PROVISIONED_BY, SERVER, VOLUME, VOLUME_ID, is_label, is_subdomain};
use crate::mount_options::{self, Unusable};
use crate::quantity;

/// The contents of a PersistentVolume.
#[derive(Clone, Debug)]
pub struct PvManifest {
    /// Name of the PersistentVolume.
    pub name: String,
    /// Labels of the PersistentVolume.
    pub labels: BTreeMap<String, String>,
    /// Name of the volume.
    pub volume: String,
    /// Id of the volume.
    pub id: String,
    /// The provisioner that manages the PersistentVolume, if any.
    pub provisioner: Option<String>,
    /// Which server of that provisioner has the volume.
    pub by: Option<String>,
    /// Capacity in bytes.
    pub capacity: u64,
    /// Access modes.
    pub access_modes: Vec<AccessMode>,
    /// StorageClass; empty for none.
    pub storage_class: String,
    /// Name or address of the NFS server; an IPv6 address may stand in brackets.
    pub server: String,
    /// Its port for NFS and MOUNT.
    pub port: u16,
    /// The path that clients mount.
    pub path: String,
    /// Mount options; defaults are added.
    pub mount_options: Vec<String>,
}

/// Why Kubernetes would refuse a manifest.
#[derive(Error, Debug)]
pub enum ManifestError {
    /// The name.
    #[error(
        "{0:?} cannot be the name of a PersistentVolume (lower case letters, digits, '-' and '.'); \
         choose one with --name"
    )]
    Name(String),
    /// The class.
    #[error("{0:?} cannot be the name of a StorageClass; choose another with --storage-class")]
    Class(String),
    /// A label.
    #[error("{0}={1} cannot be a label in Kubernetes; choose another with --label")]
    Label(String, String),
    /// The server.
    #[error("{0:?} is neither a name nor an address of a machine; choose another with --server")]
    Server(String),
    /// A mount option that cannot work.
    #[error("{0}; see --mount-option")]
    MountOption(#[from] Unusable),
    /// The serializer failed.
    #[error("cannot write the PersistentVolume as YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// The serializer failed.
    #[error("cannot write the PersistentVolume as JSON")]
    Json(#[from] serde_json::Error),
}

impl PvManifest {
    /// Returns the YAML: one document, with a newline at the end.
    ///
    /// # Errors
    /// Kubernetes would refuse the manifest.
    pub fn yaml(&self) -> Result<String, ManifestError> {
        let pv = self.persistent_volume(self.checked()?);
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        let yaml = serde_saphyr::to_string_with_options(&pv, options)?;
        if yaml.lines().all(text::is_plain) {
            return Ok(yaml);
        }
        // YAML shows characters that change the direction of writing. JSON is YAML too, and can
        // escape every character.
        Ok(text::json(&serde_json::to_string(&pv)?) + "\n")
    }

    /// Returns the object, for a `server` without brackets.
    fn persistent_volume(&self, server: &str) -> PersistentVolume {
        let annotations = self.annotations().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let capacity = Quantity(quantity::exact(self.capacity));
        // The variants have Kubernetes' names.
        let access_modes = self.access_modes.iter().map(|mode| format!("{mode:?}"));
        PersistentVolume {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()).filter(|labels| !labels.is_empty()),
                annotations: Some(annotations.collect()),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeSpec {
                access_modes: Some(access_modes.collect()),
                capacity: Some(BTreeMap::from([("storage".into(), capacity)])),
                mount_options: Some(mount_options::complete(
                    &self.mount_options,
                    server,
                    self.port,
                )),
                nfs: Some(NFSVolumeSource {
                    server: server.to_owned(),
                    path: self.path.clone(),
                    read_only: None,
                }),
                persistent_volume_reclaim_policy: Some("Retain".into()),
                storage_class_name: Some(self.storage_class.clone()),
                volume_mode: Some("Filesystem".into()),
                ..PersistentVolumeSpec::default()
            }),
            status: None,
        }
    }

    /// The annotations by which the provisioner finds the volume, for example to expand it.
    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let whose = self.provisioner.iter().map(|name| (PROVISIONED_BY, name.as_str()));
        let by = self.by.iter().map(|server| (SERVER, server.as_str()));
        whose.chain(by).chain([(VOLUME_ID, self.id.as_str()), (VOLUME, self.volume.as_str())])
    }

    /// Checks all fields, and returns the server without brackets.
    fn checked(&self) -> Result<&str, ManifestError> {
        if !is_subdomain(&self.name) {
            return Err(ManifestError::Name(self.name.clone()));
        }
        if !self.storage_class.is_empty() && !is_subdomain(&self.storage_class) {
            return Err(ManifestError::Class(self.storage_class.clone()));
        }
        if let Some((key, value)) = self.labels.iter().find(|(k, v)| !is_label(k, v)) {
            return Err(ManifestError::Label(key.clone(), value.clone()));
        }
        mount_options::check(&self.mount_options)?;
        let bare = self.server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let server = bare.unwrap_or(&self.server);
        let is_name = is_subdomain(&server.to_ascii_lowercase());
        if !is_name && server.parse::<IpAddr>().is_err() {
            return Err(ManifestError::Server(self.server.clone()));
        }
        mount_options::check_family(&self.mount_options, server)?;
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest() -> PvManifest {
        PvManifest {
            name: "data".into(),
            labels: BTreeMap::new(),
            volume: "data".into(),
            id: "id-1".into(),
            provisioner: Some("example.org/berth".into()),
            by: Some("00ff".into()),
            capacity: 10 << 30,
            access_modes: vec![AccessMode::ReadWriteMany],
            storage_class: String::new(),
            server: "10.0.0.5".into(),
            port: 2049,
            path: "/data".into(),
            mount_options: Vec::new(),
        }
    }

    fn read(manifest: &PvManifest) -> Value {
        serde_saphyr::from_str(&manifest.yaml().unwrap()).unwrap()
    }

    #[test]
    fn a_manifest_has_all_fields() {
        let annotations = json!({
            "pv.kubernetes.io/provisioned-by": "example.org/berth", "berth.io/server": "00ff",
            "berth.io/volume-id": "id-1", "berth.io/volume": "data",
        });
        let expected = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": "data", "annotations": annotations },
            "spec": {
                "capacity": { "storage": "10Gi" },
                "volumeMode": "Filesystem",
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "mountOptions": [
                    "nfsvers=3", "proto=tcp", "port=2049", "mountport=2049", "mountproto=tcp",
                    "nolock", "hard", "nosuid", "nodev",
                ],
                "nfs": { "server": "10.0.0.5", "path": "/data" },
            },
        });
        assert_eq!(read(&manifest()), expected);
    }

    #[test]
    fn a_manifest_is_written_for_people() {
        let labels = [("team", "blue"), ("on", "true"), ("example.org/1", "007")];
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let labelled = PvManifest { labels, mount_options: vec!["soft".into()], ..manifest() };
        let expected = "\
apiVersion: v1
kind: PersistentVolume
metadata:
  annotations:
    berth.io/server: 00ff
    berth.io/volume: data
    berth.io/volume-id: id-1
    pv.kubernetes.io/provisioned-by: example.org/berth
  labels:
    example.org/1: \"007\"
    \"on\": \"true\"
    team: blue
  name: data
spec:
  accessModes:
  - ReadWriteMany
  capacity:
    storage: 10Gi
";
        let yaml = labelled.yaml().unwrap();
        assert!(yaml.starts_with(expected), "{yaml}");
    }

    #[test]
    fn strings_stay_strings_in_yaml() {
        let labels = [("on", "true"), ("example.org/1", "007"), ("empty", "")];
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let path = "/a: b # \"c\" 'd' \\ ü\u{85}\u{202e}\n---\n- x";
        let strange = PvManifest {
            name: "1.5".into(),
            labels: labels.clone(),
            capacity: 1_000_000_001,
            access_modes: vec![AccessMode::ReadWriteOncePod, AccessMode::ReadOnlyMany],
            storage_class: "null".into(),
            path: path.into(),
            volume: path.into(),
            provisioner: None,
            by: None,
            ..manifest()
        };
        assert!(strange.yaml().unwrap().lines().all(text::is_plain), "{}", strange.yaml().unwrap());
        let read = read(&strange);
        let annotations = json!({ "berth.io/volume-id": "id-1", "berth.io/volume": path });
        let metadata = json!({ "name": "1.5", "labels": labels, "annotations": annotations });
        assert_eq!(read["metadata"], metadata);
        assert_eq!(read["spec"]["nfs"]["path"], path);
        assert_eq!(read["spec"]["storageClassName"], "null");
        assert_eq!(read["spec"]["capacity"]["storage"], "1000000001");
        assert_eq!(read["spec"]["accessModes"], json!(["ReadWriteOncePod", "ReadOnlyMany"]));
    }

    #[test]
    fn ipv6_servers_get_ipv6_mount_options() {
        let with = PvManifest { server: "[fd00::1]".into(), port: 20490, ..manifest() };
        let spec = &read(&with)["spec"];
        assert_eq!(spec["nfs"]["server"], "fd00::1");
        let options = spec["mountOptions"].as_array().unwrap();
        for option in ["proto=tcp6", "mountproto=tcp6", "port=20490", "mountport=20490"] {
            assert!(options.contains(&option.into()), "{option}");
        }
    }

    #[test]
    fn given_mount_options_replace_the_defaults() {
        let with = |option: &str| PvManifest { mount_options: vec![option.into()], ..manifest() };
        let spec = &read(&with("suid,soft"))["spec"];
        let options: Vec<_> =
            spec["mountOptions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(options.contains(&"suid,soft") && options.contains(&"nodev"), "{options:?}");
        assert!(!options.contains(&"nosuid") && !options.contains(&"hard"), "{options:?}");
        for wrong in ["nfsvers=4", "a b", "proto=tcp6"] {
            let error = with(wrong).yaml().unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("--mount-option"), "{error}");
        }
    }

    #[test]
    fn what_kubernetes_would_refuse_is_refused_here() {
        let check = |manifest: PvManifest, word: &str| {
            let error = manifest.yaml().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        for name in ["", "Data", "a_b", "-a", "a-", "a..b", "ü", &"x".repeat(254)] {
            check(PvManifest { name: name.into(), ..manifest() }, "--name");
        }
        check(PvManifest { storage_class: "A".into(), ..manifest() }, "--storage-class");
        for server in ["", "a/b", "a b", "10.0.0.5:2049", "fd00::x", "$(x)"] {
            check(PvManifest { server: server.into(), ..manifest() }, "--server");
        }
        assert!(PvManifest { server: "NAS.example.org".into(), ..manifest() }.yaml().is_ok());
        let labels = BTreeMap::from([("a".into(), "b c".into())]);
        check(PvManifest { labels, ..manifest() }, "--label");
    }
}
