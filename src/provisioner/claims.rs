//! Claims: each that waits for us gets a volume and a PV.
//!
//! **Flow.** A claim that changed is looked at ([`decide`]). One that is owed a volume is read
//! again from the API server; then its volume is made, known by the claim's uid; then its PV, named
//! after the uid. Every step may be repeated: what is there already is taken as it is, if it is
//! ours.
//!
//! **Guarantees.** At most one volume and one PV for each claim, however often the process dies. A
//! claim that vanishes half way leaves nothing: a volume that was not given to a PV is ended again.
//! What cannot be fulfilled is said in an event, and touches no other claim. Nothing is given up:
//! what may work later is tried again, after 1 s to 5 min.
//!
//! **Assumes.** The cluster says which claims wait for us, by an annotation. One process uses the
//! directory of the volumes.
//!
//! **Errors.** `ProvisioningFailed` on the claim, with what to do.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::PostParams;

use super::error::{Error, Refusal, Result, has_code};
use super::events::Tone;
use super::objects::{self, Wanted, annotation};
use super::ownership::{self, SERVER};
use super::params::{Parameters, describe};
use super::pattern::Subject;
use super::queue::Outcome;
use super::source::Source;
use super::unfinished::{Unfinished, cleaned_up};
use super::watch::Key;
use super::{Context, bound, call, collision, copy_source, recycled};
use crate::mount_options;
use crate::quantity;
use crate::volume;
use crate::volume::name::VolumeId;
use crate::volume::spec::{CAPACITY_MIN, Spec, VolumePhase, VolumeStatus};
use crate::volume::{VolumeOrigin, Volumes};

/// How often a clone is looked at.
const CLONE_POLL: Duration = Duration::from_secs(1);

/// What NFS volumes can have. Of these, the scheduler enforces ReadWriteOncePod, whatever the
/// volume.
const ACCESS_MODES: [&str; 4] =
    ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"];

/// What is owed to a claim.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: it is not ours, or waits for something else that will change it.
    Nothing,
    /// It names a PV; whether that is bound to it is another question.
    Bound,
    /// Its class is not there.
    Wait(String),
    /// It asks for what there is not.
    Refuse(Refusal),
    /// Nothing until it is bound: somebody else fills it from this source, and binds it.
    Populated(String),
    /// A volume.
    Provision(Box<Plan>),
}

/// What a claim gets.
#[derive(Debug)]
pub struct Plan {
    /// Its volume.
    pub spec: Spec,
    /// Its PV.
    pub wanted: Wanted,
    /// The claim, of the same namespace, that it is a copy of.
    pub source: Option<String>,
}

/// Whether a claim names a PV. Anybody who may make claims can have it name any.
pub fn names_a_volume(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    named.is_some_and(|name| !name.is_empty())
}

/// What is owed to a claim. Pure: no client, no clock, no disk.
pub fn decide(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, ours: &str) -> Decision {
    if names_a_volume(claim) {
        return Decision::Bound;
    }
    let new = annotation(&claim.metadata, objects::PROVISIONER);
    let asked = new.or_else(|| annotation(&claim.metadata, objects::PROVISIONER_BETA));
    if asked != Some(ours) || claim.metadata.deletion_timestamp.is_some() {
        return Decision::Nothing;
    }
    let Some(name) = objects::class_name(claim) else { return Decision::Nothing };
    let Some(class) = class else {
        return Decision::Wait(format!("there is no StorageClass {name}; create it again"));
    };
    // The class was made anew, for somebody else.
    if class.provisioner != ours {
        return Decision::Nothing;
    }
    let node = annotation(&claim.metadata, objects::SELECTED_NODE);
    if objects::waits_for_pod(class) && node.is_none() {
        return Decision::Nothing;
    }
    let source = match Source::of(claim) {
        Ok(Source::None) => None,
        Ok(Source::Claim(name)) => Some(name),
        Ok(Source::Foreign(source)) => return Decision::Populated(source),
        Err(refusal) => return Decision::Refuse(refusal),
    };
    match plan(claim, class, source) {
        Ok(plan) => Decision::Provision(Box::new(plan)),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// What a claim gets.
pub fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    source: Option<String>,
) -> std::result::Result<Plan, Refusal> {
    let meta = &claim.metadata;
    let asked = claim.spec.clone().unwrap_or_default();
    if asked.volume_mode.as_deref().is_some_and(|mode| mode != "Filesystem") {
        return Err(Refusal::Block(class.provisioner.clone()));
    }
    if asked.selector.is_some() {
        return Err(Refusal::Selector);
    }
    if let Some(class) = asked.volume_attributes_class_name.filter(|class| !class.is_empty()) {
        return Err(Refusal::AttributesClass(class));
    }
    let access_modes = asked.access_modes.unwrap_or_default();
    if let Some(other) = access_modes.iter().find(|mode| !ACCESS_MODES.contains(&mode.as_str())) {
        return Err(Refusal::AccessMode(other.clone()));
    }
    let size = asked.resources.and_then(|resources| resources.requests?.get("storage").cloned());
    let size = size.ok_or(Refusal::NoSize)?.0;
    let capacity = quantity::parse(&size).map_err(|why| Refusal::Size(size, why))?;
    let capacity = capacity.max(CAPACITY_MIN); // a PV may have more than its claim requests
    let mount_options = class.mount_options.clone().unwrap_or_default();
    mount_options::check(&mount_options)?;
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
    if !matches!(policy.as_str(), "Delete" | "Retain") {
        return Err(Refusal::Policy(policy));
    }
    let parameters = Parameters::read(&class.parameters.clone().unwrap_or_default())?;
    let uid = meta.uid.clone().unwrap_or_default();
    let subject = Subject {
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        claim: meta.name.as_deref().unwrap_or_default(),
        volume: &objects::pv_name(&uid),
        labels: meta.labels.as_ref(),
        annotations: meta.annotations.as_ref(),
    };
    let (volume, directory) = parameters.pattern.directory(subject)?.into_place(subject.volume)?;
    let id = VolumeId::new(uid.clone()).map_err(|why| Refusal::Id { id: uid, why })?;
    let mut spec = parameters.spec(volume.clone(), id, capacity);
    spec.directory = directory;
    spec.labels.insert(objects::CLAIM_NAMESPACE.into(), subject.namespace.into());
    let own = |(key, value): (&str, String)| (key.to_owned(), value);
    spec.labels.extend(ownership::labels_of(claim).map(own));
    let wanted = Wanted {
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
    Ok(Plan { spec, wanted, source })
}

/// Looks at a claim, and does what is owed to it.
pub async fn reconcile(cx: &Context, key: &Key) -> Outcome {
    let _busy = cx.busy_with(key);
    let Some(claim) = cx.stores.claim(key) else { return cleaned_up(cx, key).await };
    let class = objects::class_name(&claim).and_then(|name| cx.stores.class(name));
    let decision = decide(&claim, class.as_deref(), &cx.settings.name);
    match decision {
        Decision::Nothing => return Outcome::Done,
        Decision::Bound => {
            cx.forget(key);
            return bound::look(cx, &claim, class.as_deref()).await;
        }
        Decision::Wait(_)
        | Decision::Refuse(_)
        | Decision::Populated(_)
        | Decision::Provision(_) => {}
    }
    // Whoever leads next looks at all claims. The end of the term waits for what is begun in it.
    let term = cx.term.read().await;
    if !*term {
        return Outcome::Done;
    }
    let failed = match decision {
        Decision::Nothing | Decision::Bound => return Outcome::Done,
        Decision::Wait(why) => Error::Waiting(why),
        Decision::Refuse(refusal) => Error::Refused(refusal),
        Decision::Populated(source) => {
            leave_to_others(cx, &claim, &source);
            return Outcome::Done;
        }
        Decision::Provision(plan) => match apply(cx, key, &claim, &plan).await {
            Ok(outcome) => return outcome,
            Err(error) if error.is_conflict() => return Outcome::Stale,
            Err(error) => error,
        },
    };
    fail(cx, &claim, &failed)
}

/// Says once that a claim waits for somebody else.
fn leave_to_others(cx: &Context, claim: &PersistentVolumeClaim, source: &str) {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    if !cx.populated.lock().insert(uid) {
        return;
    }
    let message = format!(
        "{source} is filled by somebody else, who binds the claim: no volume is provisioned for it"
    );
    cx.events.tell(objects::claim_ref(claim), Tone::Normal, "WaitForPopulator", message);
    let pvc = full_name(claim);
    tracing::info!(pvc, source, "left to a populator");
}

/// Says why a claim has no volume yet.
pub fn fail(cx: &Context, claim: &PersistentVolumeClaim, error: &Error) -> Outcome {
    let (class, of) = (objects::class_name(claim).unwrap_or_default(), objects::claim_ref(claim));
    let clone = claim.spec.as_ref().is_some_and(|spec| spec.data_source.is_some());
    cx.metrics.provision_failed(class, clone);
    let pvc = full_name(claim);
    if cx.events.failed(of, "ProvisioningFailed", error) {
        tracing::warn!(error = error.logged(), pvc, "cannot provision");
    }
    if error.is_transient() { Outcome::Failed } else { Outcome::Done }
}

/// A claim in the log and in messages.
pub fn full_name(claim: &PersistentVolumeClaim) -> String {
    let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
    format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// Gives a claim its volume and its PV.
async fn apply(
    cx: &Context,
    key: &Key,
    claim: &PersistentVolumeClaim,
    plan: &Plan,
) -> Result<Outcome> {
    let name = objects::pv_name(&key.uid);
    if cx.stores.pv(&name).is_some_and(|pv| is_of(&pv, key, cx)) {
        cx.forget(key);
        return Ok(Outcome::Done);
    }
    if let Some(outcome) = cx.is_given(key) {
        return Ok(outcome); // the cluster binds it
    }
    let began = Instant::now();
    let address = cx.server.address(&cx.client).await?;
    mount_options::check_family(&plan.wanted.mount_options, &address.server)
        .map_err(Refusal::from)?;
    if !matches!(cx.unfinished(key), Some(Unfinished::Made(_))) {
        // What is kept may be old: nothing is made for a claim that is gone or has a volume.
        if !still_waits(cx, key).await? {
            return Ok(Outcome::Done);
        }
        let message =
            format!("External provisioner is provisioning volume for claim {:?}", full_name(claim));
        cx.events.tell_once(objects::claim_ref(claim), Tone::Normal, "Provisioning", &message);
        if let Some(given) = recycled::give(cx, claim, plan).await? {
            cx.given(key, &given);
            provisioned(cx, claim, plan, &given, began);
            return Ok(Outcome::Done);
        }
    }
    let status = make(cx, claim, plan).await?;
    cx.remember(key, Unfinished::Made(status.spec.name.clone()));
    match status.phase {
        VolumePhase::Ready | VolumePhase::Counting => {}
        VolumePhase::Cloning { .. } => return Ok(Outcome::Again(CLONE_POLL)),
        VolumePhase::Failed { message } => return Err(Error::Clone(message)),
        VolumePhase::Lost { message } => {
            let name = status.spec.name;
            return Err(volume::error::Error::Lost { name, message }.into());
        }
    }
    let (volume, path) = (status.spec.name.clone(), status.path.clone());
    let wanted = Wanted { volume, path, ..plan.wanted.clone() };
    let mut pv = objects::volume(&wanted, &address);
    let annotations = pv.metadata.annotations.get_or_insert_default();
    annotations.insert(SERVER.into(), cx.server_id.clone());
    let saved = save(cx, key, &pv).await?;
    // Should this fail, it is made up for when the PV is seen.
    cx.settle(&saved).await?;
    cx.forget(key);
    let (pvc, like) = (full_name(claim), describe(&status.spec));
    tracing::info!(pvc, pv = name, volume = %wanted.volume, like, "provisioned");
    provisioned(cx, claim, plan, &name, began);
    Ok(Outcome::Done)
}

/// Says that a claim has its PV.
fn provisioned(cx: &Context, claim: &PersistentVolumeClaim, plan: &Plan, pv: &str, since: Instant) {
    cx.metrics.provisioned(&plan.wanted.class, plan.source.is_some(), since.elapsed());
    let message = format!("Successfully provisioned volume {pv}");
    cx.events.tell(objects::claim_ref(claim), Tone::Normal, "ProvisioningSucceeded", message);
}

/// Whether the API server has the claim, this one, without a volume.
async fn still_waits(cx: &Context, key: &Key) -> Result<bool> {
    let live = live(cx, key).await?;
    let bound = |claim: PersistentVolumeClaim| claim.spec?.volume_name.filter(|n| !n.is_empty());
    Ok(live.is_some_and(|claim| bound(claim).is_none()))
}

/// The claim as the API server has it, unless it is gone.
pub async fn live(cx: &Context, key: &Key) -> Result<Option<PersistentVolumeClaim>> {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(cx.client.clone(), namespace);
    let what = format!("get PersistentVolumeClaim {namespace}/{}", key.name);
    let found = call(what, api.get_opt(&key.name)).await?;
    Ok(found.filter(|claim| claim.metadata.uid.as_ref() == Some(&key.uid)))
}

/// Makes a claim's volume, or finds it.
async fn make(cx: &Context, claim: &PersistentVolumeClaim, plan: &Plan) -> Result<VolumeStatus> {
    let spec = plan.spec.clone();
    let origin = match &plan.source {
        Some(source) => {
            // A copy that is being made, or is done, needs its source no more.
            let wanted = spec.clone();
            if let Some(begun) = cx.blocking(move |volumes| Ok(begun(volumes, &wanted))).await? {
                return Ok(begun);
            }
            VolumeOrigin::Clone(copy_source::source_volume(cx, claim, source).await?)
        }
        None => VolumeOrigin::Fresh,
    };
    let made = cx.blocking(move |volumes| {
        // Counts for a new volume only: one that is there keeps its path for ever.
        let spec = Spec { token: Some(volume::fresh_token()?), ..spec };
        // A clone that failed is begun again by this, and reported as failed now, so that the next
        // look comes later each time.
        let before = volumes.show(&spec.name).ok();
        let found = match volumes.create(spec.clone(), origin.clone()) {
            // The claim's labels have changed since: its volume has the name that it got first.
            Err(volume::error::Error::OtherName { name, .. }) => {
                volumes.create(Spec { name, ..spec }, origin)
            }
            other => other,
        }?;
        let failed = before.filter(|status| status.spec.id == found.spec.id);
        Ok(match failed.map(|status| status.phase) {
            Some(phase @ VolumePhase::Failed { .. }) => VolumeStatus { phase, ..found },
            _ => found,
        })
    });
    match made.await {
        Err(error) => Err(collision::explained(cx, &plan.spec, error).await),
        made => made,
    }
}

/// A volume that is there as it is wanted, or will be.
fn begun(volumes: &Volumes, wanted: &Spec) -> Option<VolumeStatus> {
    let found = volumes.show(&wanted.name).ok()?;
    let usable = matches!(
        found.phase,
        VolumePhase::Ready | VolumePhase::Counting | VolumePhase::Cloning { .. }
    );
    (usable && found.spec.id == wanted.id).then_some(found)
}

/// Whether a PV is the one that was made for a claim.
fn is_of(pv: &PersistentVolume, key: &Key, cx: &Context) -> bool {
    annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(&cx.settings.name)
        && pv.metadata.name == Some(objects::pv_name(&key.uid))
}

/// Saves a PV, and answers what is saved. One that is there is a success, if it is the claim's and
/// stays.
async fn save(cx: &Context, key: &Key, pv: &PersistentVolume) -> Result<PersistentVolume> {
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let name = pv.metadata.name.clone().unwrap_or_default();
    let what = format!("create PersistentVolume {name}");
    match call(what, api.create(&PostParams::default(), pv)).await {
        Ok(saved) => return Ok(saved),
        Err(Error::Api { source, .. }) if has_code(&source, 409) => {}
        Err(error) => return Err(error),
    }
    let there = call(format!("get PersistentVolume {name}"), api.get_opt(&name)).await?;
    match there {
        Some(pv) if !is_of(&pv, key, cx) => Err(Error::Foreign(format!(
            "PersistentVolume {name} is there and not ours; nothing of it is touched"
        ))),
        Some(pv) if pv.metadata.deletion_timestamp.is_none() => Ok(pv),
        _ => Err(Error::Waiting(format!("PersistentVolume {name} is being deleted"))),
    }
}
