//! A claim whose directory is another's: told in the words of its author, who knows claims and the
//! class's pattern, and neither ids nor where the server keeps its volumes.

use super::Context;
use super::error::Error;
use super::holder;
use crate::volume::error::Error as VolumeError;
use crate::volume::name::VolumeName;
use crate::volume::spec::Spec;

/// The same error, or a collision if it is one.
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
