//! Calls to the API server, each with a time limit. Watches have limits of their own
//! ([`super::watch`]).

use std::future::Future;
use std::time::Duration;

use either::Either;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::timeout;

use super::error::{Error, Result, has_code};
use super::objects::ObjectKey;

/// Longest time that one call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Makes a call. `what` completes the error message "cannot ...".
///
/// # Errors
/// [`Error::Api`] or [`Error::Timeout`].
pub async fn call<T>(
    what: impl Into<String>,
    request: impl Future<Output = std::result::Result<T, kube::Error>>,
) -> Result<T> {
    let what = what.into();
    match timeout(CALL_MAX, request).await {
        Ok(response) => response.map_err(Error::api(what)),
        Err(_) => Err(Error::Timeout { what, after: CALL_MAX }),
    }
}

/// Reads the claim of this name, whatever its uid; `None` if there is none.
///
/// # Errors
/// See [`call`].
pub async fn get_claim_named(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<PersistentVolumeClaim>> {
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    call(format!("get PersistentVolumeClaim {namespace}/{name}"), api.get_opt(name)).await
}

/// Reads the claim with this key; `None` if it is gone, even if another one has its name.
///
/// # Errors
/// See [`call`].
pub async fn get_claim(client: &Client, key: &ObjectKey) -> Result<Option<PersistentVolumeClaim>> {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let found = get_claim_named(client, namespace, &key.name).await?;
    Ok(found.filter(|claim| claim.metadata.uid.as_ref() == Some(&key.uid)))
}

/// Changes the status of a claim by a merge patch.
///
/// # Errors
/// See [`call`].
pub async fn patch_claim_status(
    client: &Client,
    claim: &PersistentVolumeClaim,
    patch: &Value,
) -> Result<()> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let what = format!("patch status of PersistentVolumeClaim {namespace}/{name}");
    call(what, api.patch_status(name, &params, &patch)).await.map(drop)
}

/// Reads a PV; `None` if there is none.
///
/// # Errors
/// See [`call`].
pub async fn get_pv(client: &Client, name: &str) -> Result<Option<PersistentVolume>> {
    let api = Api::<PersistentVolume>::all(client.clone());
    call(format!("get PersistentVolume {name}"), api.get_opt(name)).await
}

/// Creates a PV, and returns what was saved; `None` if one of its name exists.
///
/// # Errors
/// See [`call`].
pub async fn create_pv(client: &Client, pv: &PersistentVolume) -> Result<Option<PersistentVolume>> {
    let api = Api::<PersistentVolume>::all(client.clone());
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let what = format!("create PersistentVolume {name}");
    match call(what, api.create(&PostParams::default(), pv)).await {
        Err(Error::Api { source, .. }) if has_code(&source, 409) => Ok(None),
        other => other.map(Some),
    }
}

/// Changes a PV by a merge patch, and returns what was saved.
///
/// # Errors
/// See [`call`].
pub async fn patch_pv(
    client: &Client,
    pv: &PersistentVolume,
    patch: &Value,
) -> Result<PersistentVolume> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    call(format!("patch PersistentVolume {name}"), api.patch(name, &params, &patch)).await
}

/// Deletes this PV, and not a later one of its name. Returns what is left of it while finalizers
/// keep it; `None` if it is gone.
///
/// # Errors
/// See [`call`].
pub async fn delete_pv(client: &Client, pv: &PersistentVolume) -> Result<Option<PersistentVolume>> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolume>::all(client.clone());
    let same = Preconditions { uid: pv.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams::default().preconditions(same);
    let what = format!("delete PersistentVolume {name}");
    let deleted = none_if_gone(call(what, api.delete(name, &params)).await)?;
    Ok(deleted.and_then(Either::left))
}

/// Turns the error that an object does not exist into `None`.
///
/// # Errors
/// Every other error.
pub fn none_if_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Api { source, .. }) if has_code(&source, 404) => Ok(None),
        other => other.map(Some),
    }
}
