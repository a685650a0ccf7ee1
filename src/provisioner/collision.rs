//! Explains to the author of a claim that another volume has the claim's directory: in terms of
//! claims and the class's pattern, without ids and paths of the server.

use super::context::Context;
use super::error::Error;
use super::holder;
use crate::volume::error::Error as VolumeError;
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;

/// Returns an error as [`Error::Collision`] if it is a collision, and unchanged otherwise.
pub async fn explained(cx: &Context, wanted: &Spec, error: Error) -> Error {
    let (Error::Volume(VolumeError::OtherId { name, .. })
    | Error::Volume(VolumeError::Overlaps { name, .. })) = &error
    else {
        return error;
    };
    Error::Collision { directory: wanted.relative_path().to_owned(), by: taken_by(cx, name).await }
}

async fn taken_by(cx: &Context, name: &VolumeName) -> String {
    let shown = name.clone();
    let found = cx.blocking(move |volumes| volumes.show(&shown)).await;
    match found.ok().as_ref().and_then(|status| holder::claim_of(&status.spec)) {
        Some(claim) => format!("the volume of the claim {claim}"),
        None => format!("the volume {name}, which is no claim's"),
    }
}
