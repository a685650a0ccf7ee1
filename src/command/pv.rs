//! A Kubernetes PersistentVolume for a volume, as YAML.
//!
//! Every value that is not a constant is a JSON string, which YAML reads the same way: no name can
//! become a number, a boolean or a second document. What Kubernetes would refuse is refused here
//! first, with an error that names the option.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use thiserror::Error;

use super::args::AccessMode;
use super::text;
use crate::label::{PROVISIONED_BY, SERVER, VOLUME, VOLUME_ID, is_label, is_subdomain};
use crate::mount_options::{self, Unusable};
use crate::quantity;

/// The contents of a PersistentVolume.
#[derive(Clone, Debug)]
pub struct Manifest {
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
#[derive(PartialEq, Eq, Error, Debug)]
pub enum Error {
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
}

impl Manifest {
    /// Returns the YAML: one document, with a newline at the end.
    ///
    /// # Errors
    /// Kubernetes would refuse the manifest.
    pub fn yaml(&self) -> Result<String, Error> {
        let server = self.checked()?;
        let mut out = String::from("apiVersion: v1\nkind: PersistentVolume\nmetadata:\n");
        line(&mut out, "  name: ", &self.name);
        if !self.labels.is_empty() {
            out.push_str("  labels:\n");
        }
        for (key, value) in &self.labels {
            line(&mut out, &format!("    {}: ", quoted(key)), value);
        }
        out.push_str("  annotations:\n");
        for (key, value) in self.annotations() {
            line(&mut out, &format!("    {}: ", quoted(key)), value);
        }
        out.push_str("spec:\n  capacity:\n");
        line(&mut out, "    storage: ", &quantity::exact(self.capacity));
        out.push_str("  volumeMode: Filesystem\n  accessModes:\n");
        for mode in &self.access_modes {
            let _ = writeln!(out, "    - {mode:?}"); // the variants have Kubernetes' names
        }
        out.push_str("  persistentVolumeReclaimPolicy: Retain\n");
        line(&mut out, "  storageClassName: ", &self.storage_class);
        out.push_str("  mountOptions:\n");
        for option in mount_options::complete(&self.mount_options, server, self.port) {
            line(&mut out, "    - ", &option);
        }
        out.push_str("  nfs:\n");
        line(&mut out, "    server: ", server);
        line(&mut out, "    path: ", &self.path);
        Ok(out)
    }

    /// The annotations by which the provisioner finds the volume, for example to expand it.
    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let whose = self.provisioner.iter().map(|name| (PROVISIONED_BY, name.as_str()));
        let by = self.by.iter().map(|server| (SERVER, server.as_str()));
        whose.chain(by).chain([(VOLUME_ID, self.id.as_str()), (VOLUME, self.volume.as_str())])
    }

    /// Checks all fields, and returns the server without brackets.
    fn checked(&self) -> Result<&str, Error> {
        if !is_subdomain(&self.name) {
            return Err(Error::Name(self.name.clone()));
        }
        if !self.storage_class.is_empty() && !is_subdomain(&self.storage_class) {
            return Err(Error::Class(self.storage_class.clone()));
        }
        if let Some((key, value)) = self.labels.iter().find(|(k, v)| !is_label(k, v)) {
            return Err(Error::Label(key.clone(), value.clone()));
        }
        mount_options::check(&self.mount_options)?;
        let bare = self.server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let server = bare.unwrap_or(&self.server);
        let is_name = is_subdomain(&server.to_ascii_lowercase());
        if !is_name && server.parse::<IpAddr>().is_err() {
            return Err(Error::Server(self.server.clone()));
        }
        mount_options::check_family(&self.mount_options, server)?;
        Ok(server)
    }
}

fn line(out: &mut String, before: &str, value: &str) {
    let _ = writeln!(out, "{before}{}", quoted(value)); // writing to a String cannot fail
}

fn quoted(value: &str) -> String {
    text::json(&serde_json::Value::from(value).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
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

    fn read(manifest: &Manifest) -> Value {
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
    fn strings_stay_strings_in_yaml() {
        let labels = [("on", "true"), ("example.org/1", "007"), ("empty", "")];
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let path = "/a: b # \"c\" 'd' \\ ü\u{85}\u{202e}\n---\n- x";
        let strange = Manifest {
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
        let with = Manifest { server: "[fd00::1]".into(), port: 20490, ..manifest() };
        let spec = &read(&with)["spec"];
        assert_eq!(spec["nfs"]["server"], "fd00::1");
        let options = spec["mountOptions"].as_array().unwrap();
        for option in ["proto=tcp6", "mountproto=tcp6", "port=20490", "mountport=20490"] {
            assert!(options.contains(&option.into()), "{option}");
        }
    }

    #[test]
    fn given_mount_options_replace_the_defaults() {
        let with = |option: &str| Manifest { mount_options: vec![option.into()], ..manifest() };
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
        let check = |manifest: Manifest, word: &str| {
            let error = manifest.yaml().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        for name in ["", "Data", "a_b", "-a", "a-", "a..b", "ü", &"x".repeat(254)] {
            check(Manifest { name: name.into(), ..manifest() }, "--name");
        }
        check(Manifest { storage_class: "A".into(), ..manifest() }, "--storage-class");
        for server in ["", "a/b", "a b", "10.0.0.5:2049", "fd00::x", "$(x)"] {
            check(Manifest { server: server.into(), ..manifest() }, "--server");
        }
        assert!(Manifest { server: "NAS.example.org".into(), ..manifest() }.yaml().is_ok());
        let labels = BTreeMap::from([("a".into(), "b c".into())]);
        check(Manifest { labels, ..manifest() }, "--label");
    }
}
