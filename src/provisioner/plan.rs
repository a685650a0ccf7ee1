//! Decides what happens to a claim, and plans its volume and its PV. Pure: no client, no clock, no
//! disk. [`super::claims`] applies it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::data_source::DataSource;
use super::error::ClaimRefusal;
use super::objects::{self, PvTemplate, annotation};
use super::ownership;
use super::params::ClassParameters;
use super::pattern::PatternValues;
use crate::mount_options;
use crate::quantity;
use crate::volume::name::VolumeId;
use crate::volume::spec::{CAPACITY_MIN, Spec};

/// Access modes that NFS volumes can have. The scheduler enforces ReadWriteOncePod, whatever the
/// volume.
const ACCESS_MODES: [&str; 4] =
    ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"];

/// What happens to a claim.
#[derive(Debug)]
pub enum ClaimDecision {
    /// Nothing: it is not ours, or waits for something else that will change it.
    Nothing,
    /// It names a PV. Whether the cluster has bound the two is another question.
    Bound,
    /// It waits for its class, which does not exist.
    Wait(String),
    /// It asks for something that is not supported.
    Refuse(ClaimRefusal),
    /// Nothing until it is bound: a populator fills it from this source, and binds it.
    Populated(String),
    /// A volume is provisioned.
    Provision(Box<ProvisionPlan>),
}

/// What is provisioned for a claim.
#[derive(Debug)]
pub struct ProvisionPlan {
    /// Its volume.
    pub spec: Spec,
    /// Its PV, except for what is known only when the volume exists.
    pub template: PvTemplate,
    /// Name of the claim, in the same namespace, that the volume is a copy of.
    pub source: Option<String>,
}

/// Decides what happens to a claim. `ours` is the provisioner's name.
pub fn decide(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    ours: &str,
) -> ClaimDecision {
    if objects::names_a_pv(claim) {
        return ClaimDecision::Bound;
    }
    let new = annotation(&claim.metadata, objects::PROVISIONER);
    let asked = new.or_else(|| annotation(&claim.metadata, objects::PROVISIONER_BETA));
    if asked != Some(ours) || claim.metadata.deletion_timestamp.is_some() {
        return ClaimDecision::Nothing;
    }
    let Some(name) = objects::class_name(claim) else { return ClaimDecision::Nothing };
    let Some(class) = class else {
        return ClaimDecision::Wait(format!("there is no StorageClass {name}; create it again"));
    };
    // The class was recreated with another provisioner.
    if class.provisioner != ours {
        return ClaimDecision::Nothing;
    }
    let node = annotation(&claim.metadata, objects::SELECTED_NODE);
    if objects::waits_for_pod(class) && node.is_none() {
        return ClaimDecision::Nothing;
    }
    let source = match DataSource::of(claim) {
        Ok(DataSource::None) => None,
        Ok(DataSource::Claim(name)) => Some(name),
        Ok(DataSource::Foreign(source)) => return ClaimDecision::Populated(source),
        Err(refusal) => return ClaimDecision::Refuse(refusal),
    };
    match plan(claim, class, source) {
        Ok(plan) => ClaimDecision::Provision(Box::new(plan)),
        Err(refusal) => ClaimDecision::Refuse(refusal),
    }
}

/// Plans the volume and the PV of a claim.
///
/// # Errors
/// The claim asks for something that is not supported, or the class cannot be used.
pub fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    source: Option<String>,
) -> Result<ProvisionPlan, ClaimRefusal> {
    let meta = &claim.metadata;
    let asked = claim.spec.clone().unwrap_or_default();
    if asked.volume_mode.as_deref().is_some_and(|mode| mode != "Filesystem") {
        return Err(ClaimRefusal::Block(class.provisioner.clone()));
    }
    if asked.selector.is_some() {
        return Err(ClaimRefusal::Selector);
    }
    if let Some(class) = asked.volume_attributes_class_name.filter(|class| !class.is_empty()) {
        return Err(ClaimRefusal::AttributesClass(class));
    }
    let access_modes = asked.access_modes.unwrap_or_default();
    if let Some(other) = access_modes.iter().find(|mode| !ACCESS_MODES.contains(&mode.as_str())) {
        return Err(ClaimRefusal::AccessMode(other.clone()));
    }
    let size = asked.resources.and_then(|resources| resources.requests?.get("storage").cloned());
    let size = size.ok_or(ClaimRefusal::NoSize)?.0;
    let capacity = quantity::parse(&size).map_err(|why| ClaimRefusal::Size(size, why))?;
    let capacity = capacity.max(CAPACITY_MIN); // a PV may have more than its claim requests
    let mount_options = class.mount_options.clone().unwrap_or_default();
    mount_options::check(&mount_options)?;
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
    if !matches!(policy.as_str(), "Delete" | "Retain") {
        return Err(ClaimRefusal::Policy(policy));
    }
    let parameters = ClassParameters::read(&class.parameters.clone().unwrap_or_default())?;
    let uid = meta.uid.clone().unwrap_or_default();
    let values = PatternValues {
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        claim: meta.name.as_deref().unwrap_or_default(),
        volume: &objects::pv_name(&uid),
        labels: meta.labels.as_ref(),
        annotations: meta.annotations.as_ref(),
    };
    let (volume, directory) = parameters.pattern.directory(values)?.into_place(values.volume)?;
    let id = VolumeId::new(uid.clone()).map_err(|why| ClaimRefusal::Id { id: uid, why })?;
    let mut spec = parameters.spec(volume.clone(), id, capacity);
    spec.directory = directory;
    spec.labels.insert(objects::CLAIM_NAMESPACE.into(), values.namespace.into());
    let own = |(key, value): (&str, String)| (key.to_owned(), value);
    spec.labels.extend(ownership::labels_of(claim).map(own));
    let template = PvTemplate {
        class: class.metadata.name.clone().unwrap_or_default(),
        provisioner: class.provisioner.clone(),
        labels: parameters.labels.clone(),
        access_modes,
        policy,
        mount_options,
        path: spec.export_path(),
        volume,
        capacity,
        on_delete: parameters.on_delete(),
        claim: objects::claim_ref(claim),
    };
    Ok(ProvisionPlan { spec, template, source })
}
