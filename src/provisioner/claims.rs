//! Claims: each that waits for us gets a volume and a PV.
//!
//! **Flow.** A claim that changed is looked at ([`decide`]). One that is owed a volume is read again
//! from the API server; then its volume is made, known by the claim's uid; then its PV, named after
//! the uid. Every step may be repeated: what is there already is taken as it is, if it is ours.
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

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::PostParams;

use super::error::{Error, Refusal, Result, has_code};
use super::events::Tone;
use super::objects::{self, Wanted, annotation};
use super::params::{Parameters, describe};
use super::pattern::Subject;
use super::queue::Outcome;
use super::source::Source;
use super::watch::Key;
use super::{Context, call, collision, expand, orphans};
use crate::mount_options;
use crate::quantity;
use crate::volume;
use crate::volume::name::{Name, VolumeId};
use crate::volume::spec::{OnDelete, Phase, Spec, Status};
use crate::volume::{Origin, Volumes};

/// How often a clone is looked at.
const CLONE_POLL: Duration = Duration::from_secs(1);

/// What NFS volumes can have. Of these, the scheduler enforces ReadWriteOncePod, whatever the volume.
const ACCESS_MODES: [&str; 4] =
    ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteOncePod"];

/// What is owed to a claim.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: it is not ours, or waits for something else that will change it.
    Nothing,
    /// It is bound; whether it has grown is another question.
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

/// A volume that is given to no PV yet.
#[derive(Clone)]
pub enum Unfinished {
    /// Made since provisioning began: nobody has used it.
    Made(Name),
    /// It was there before, and its claim too.
    Found(Name),
}

/// What is owed to a claim. Pure: no client, no clock, no disk.
pub fn decide(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, ours: &str) -> Decision {
    let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    if bound.is_some_and(|name| !name.is_empty()) {
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
fn plan(
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
    spec.labels.insert(objects::CLAIM_NAME.into(), subject.claim.into());
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
    let Some(claim) = cx.stores.claim(key) else { return cleaned_up(cx, key).await };
    let class = objects::class_name(&claim).and_then(|name| cx.stores.class(name));
    let failed = match decide(&claim, class.as_deref(), &cx.settings.name) {
        Decision::Nothing => return Outcome::Done,
        Decision::Bound => {
            cx.forget(key);
            return expand::reconcile(cx, &claim).await;
        }
        Decision::Wait(why) => Error::Waiting(why),
        Decision::Refuse(refusal) => Error::Refused(refusal),
        Decision::Populated(source) => {
            leave_to_others(cx, &claim, &source);
            return Outcome::Done;
        }
        Decision::Provision(plan) => match apply(cx, key, &claim, &plan).await {
            Ok(outcome) => return outcome,
            Err(error) => error,
        },
    };
    fail(cx, &claim, &failed)
}

/// Says once that a claim waits for somebody else.
fn leave_to_others(cx: &Context, claim: &PersistentVolumeClaim, source: &str) {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    if !cx.populated.lock().unwrap_or_else(PoisonError::into_inner).insert(uid) {
        return;
    }
    let message = format!(
        "{source} is filled by somebody else, who binds the claim: no volume is provisioned for it"
    );
    cx.events.tell(objects::claim_ref(claim), Tone::Normal, "WaitForPopulator", message);
    let pvc = display(claim);
    tracing::info!(pvc, source, "left to a populator");
}

/// Says why a claim has no volume yet.
fn fail(cx: &Context, claim: &PersistentVolumeClaim, error: &Error) -> Outcome {
    let (class, of) = (objects::class_name(claim).unwrap_or_default(), objects::claim_ref(claim));
    let clone = claim.spec.as_ref().is_some_and(|spec| spec.data_source.is_some());
    cx.metrics.provision_failed(class, clone);
    let pvc = display(claim);
    tracing::warn!(error = error.logged(), pvc, "cannot provision");
    cx.events.failed(of, "ProvisioningFailed", error);
    if error.is_transient() { Outcome::Failed } else { Outcome::Done }
}

fn display(claim: &PersistentVolumeClaim) -> String {
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
            format!("External provisioner is provisioning volume for claim {:?}", display(claim));
        cx.events.tell(objects::claim_ref(claim), Tone::Normal, "Provisioning", message);
    }
    let status = make(cx, claim, plan).await?;
    cx.remember(key, Unfinished::Made(status.spec.name.clone()));
    match status.phase {
        Phase::Ready | Phase::Counting => {}
        Phase::Cloning { .. } => return Ok(Outcome::Again(CLONE_POLL)),
        Phase::Failed { message } => return Err(Error::Clone(message)),
        Phase::Lost { message } => {
            let name = status.spec.name;
            return Err(volume::error::Error::Lost { name, message }.into());
        }
    }
    let (volume, path) = (status.spec.name.clone(), status.path.clone());
    let wanted = Wanted { volume, path, ..plan.wanted.clone() };
    save(cx, key, &objects::volume(&wanted, &address)).await?;
    cx.forget(key);
    cx.metrics.provisioned(&wanted.class, plan.source.is_some(), began.elapsed());
    let message = format!("Successfully provisioned volume {name}");
    cx.events.tell(objects::claim_ref(claim), Tone::Normal, "ProvisioningSucceeded", message);
    let (pvc, like) = (display(claim), describe(&status.spec));
    tracing::info!(pvc, pv = name, volume = %wanted.volume, like, "provisioned");
    Ok(Outcome::Done)
}

/// Whether the API server has the claim, this one, without a volume.
async fn still_waits(cx: &Context, key: &Key) -> Result<bool> {
    let live = live(cx, key).await?;
    let bound = |claim: PersistentVolumeClaim| claim.spec?.volume_name.filter(|n| !n.is_empty());
    Ok(live.is_some_and(|claim| bound(claim).is_none()))
}

/// The claim as the API server has it, unless it is gone.
async fn live(cx: &Context, key: &Key) -> Result<Option<PersistentVolumeClaim>> {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(cx.client.clone(), namespace);
    let what = format!("get PersistentVolumeClaim {namespace}/{}", key.name);
    let found = call(what, api.get_opt(&key.name)).await?;
    Ok(found.filter(|claim| claim.metadata.uid.as_ref() == Some(&key.uid)))
}

/// Makes a claim's volume, or finds it.
async fn make(cx: &Context, claim: &PersistentVolumeClaim, plan: &Plan) -> Result<Status> {
    let spec = plan.spec.clone();
    let origin = match &plan.source {
        Some(source) => {
            // A copy that is being made, or is done, needs its source no more.
            let wanted = spec.clone();
            if let Some(begun) = cx.blocking(move |volumes| Ok(begun(volumes, &wanted))).await? {
                return Ok(begun);
            }
            Origin::Clone(source_volume(cx, claim, source)?)
        }
        None => Origin::Fresh,
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
            Some(phase @ Phase::Failed { .. }) => Status { phase, ..found },
            _ => found,
        })
    });
    match made.await {
        Err(error) => Err(collision::explained(cx, &plan.spec, error).await),
        made => made,
    }
}

/// A volume that is there as it is wanted, or will be.
fn begun(volumes: &Volumes, wanted: &Spec) -> Option<Status> {
    let found = volumes.show(&wanted.name).ok()?;
    let usable = matches!(found.phase, Phase::Ready | Phase::Counting | Phase::Cloning { .. });
    (usable && found.spec.id == wanted.id).then_some(found)
}

/// The volume of the claim that is to be copied.
fn source_volume(cx: &Context, claim: &PersistentVolumeClaim, source: &str) -> Result<Name> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let waiting = |why: &str| Error::Waiting(format!("data source {source} {why}"));
    let found = cx.stores.claim_named(namespace, source);
    let found = found.ok_or_else(|| waiting("is not there; create it, or remove dataSource"))?;
    let ours = objects::class_name(claim).unwrap_or_default();
    let theirs = objects::class_name(&found).unwrap_or_default();
    if ours != theirs {
        let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
        return Err(Refusal::OtherClass { claim: source.to_owned(), theirs, ours }.into());
    }
    let pv = found.spec.as_ref().and_then(|spec| cx.stores.pv(spec.volume_name.as_deref()?));
    let pv = pv.ok_or_else(|| waiting("has no volume yet"))?;
    if annotation(&pv.metadata, objects::PROVISIONED_BY) != Some(&cx.settings.name) {
        return Err(Refusal::DataSource(format!("PersistentVolumeClaim {source}")).into());
    }
    let name = annotation(&pv.metadata, objects::VOLUME).unwrap_or_default();
    Name::new(name).map_err(|_| waiting("has a PersistentVolume without a volume"))
}

/// Whether a PV is the one that was made for a claim.
fn is_of(pv: &PersistentVolume, key: &Key, cx: &Context) -> bool {
    annotation(&pv.metadata, objects::PROVISIONED_BY) == Some(&cx.settings.name)
        && annotation(&pv.metadata, objects::VOLUME_ID) == Some(&key.uid)
}

/// Saves a PV. One that is there is a success, if it is the claim's and stays.
async fn save(cx: &Context, key: &Key, pv: &PersistentVolume) -> Result<()> {
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    let name = pv.metadata.name.clone().unwrap_or_default();
    let what = format!("create PersistentVolume {name}");
    match call(what, api.create(&PostParams::default(), pv)).await {
        Ok(_) => return Ok(()),
        Err(Error::Api { source, .. }) if has_code(&source, 409) => {}
        Err(error) => return Err(error),
    }
    let there = call(format!("get PersistentVolume {name}"), api.get_opt(&name)).await?;
    match there {
        Some(pv) if !is_of(&pv, key, cx) => Err(Error::Foreign(format!(
            "PersistentVolume {name} is there and not ours; nothing of it is touched"
        ))),
        Some(pv) if pv.metadata.deletion_timestamp.is_none() => Ok(()),
        _ => Err(Error::Waiting(format!("PersistentVolume {name} is being deleted"))),
    }
}

/// The end of a claim that is gone: what was made for it and not given to a PV is ended again.
async fn cleaned_up(cx: &Context, key: &Key) -> Outcome {
    let Some(unfinished) = cx.unfinished(key) else {
        cx.forget(key);
        return Outcome::Done;
    };
    match clean_up(cx, key, unfinished).await {
        Ok(()) => {
            cx.forget(key);
            Outcome::Done
        }
        Err(error) => {
            let pvc = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
            tracing::warn!(
                error = error.logged(),
                pvc,
                "cannot clean up after a claim that is gone"
            );
            let of = key.claim_ref();
            let message =
                format!("Error cleaning provisioned volume for claim {pvc}: {}", error.public());
            cx.events.tell(of, Tone::Warning, "ProvisioningCleanupFailed", message);
            Outcome::Failed
        }
    }
}

/// Ends a claim's volume, if the claim is gone and has no PV.
async fn clean_up(cx: &Context, key: &Key, unfinished: Unfinished) -> Result<()> {
    if live(cx, key).await?.is_some() {
        return Ok(());
    }
    let name = match unfinished {
        Unfinished::Made(name) => name,
        Unfinished::Found(name) => {
            let shown = name.clone();
            let found = cx.blocking(move |volumes| Ok(volumes.show(&shown).ok())).await?;
            let Some(volume) = found else { return Ok(()) };
            if !orphans::is_a_beginning(cx, &volume).await {
                orphans::warn(&volume);
                cx.metrics.orphan();
                return Ok(());
            }
            name
        }
    };
    end_unfinished(cx, key, name).await.map(|_| ())
}

/// Ends the volume of a claim that is gone, unless there is a PV for it. Says whether it is gone.
///
/// # Errors
/// The API server cannot be asked, or the disk fails. May be repeated.
pub async fn end_unfinished(cx: &Context, key: &Key, name: Name) -> Result<bool> {
    let pv = objects::pv_name(&key.uid);
    let api = Api::<PersistentVolume>::all(cx.client.clone());
    if call(format!("get PersistentVolume {pv}"), api.get_opt(&pv)).await?.is_some() {
        return Ok(false); // its own end will come
    }
    let (uid, shown) = (key.uid.clone(), name.clone());
    cx.blocking(move |volumes| match volumes.show(&name) {
        Ok(status) if status.spec.id.as_str() == uid => {
            volumes.end(&name, Some(OnDelete::Delete)).map(|_| ())
        }
        _ => Ok(()),
    })
    .await?;
    tracing::info!(volume = %shown, "the claim is gone, and so is what was made for it");
    Ok(true)
}

impl Context {
    /// A claim's volume is given to no PV yet. What was said of it first stays.
    pub(super) fn remember(&self, key: &Key, volume: Unfinished) {
        let mut all = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key.uid.clone()).or_insert(volume);
    }

    fn forget(&self, key: &Key) {
        self.populated.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.uid);
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.uid);
    }

    fn unfinished(&self, key: &Key) -> Option<Unfinished> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).get(&key.uid).cloned()
    }
}

impl Key {
    /// The claim, in the way in which events refer to it.
    fn claim_ref(&self) -> k8s_openapi::api::core::v1::ObjectReference {
        k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            name: Some(self.name.clone()),
            namespace: self.namespace.clone(),
            uid: Some(self.uid.clone()),
            ..k8s_openapi::api::core::v1::ObjectReference::default()
        }
    }
}
