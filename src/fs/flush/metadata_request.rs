//! What the next flush of an export's metadata has to cover.

use std::sync::Arc;

use super::content_request::KeptOpen;
use crate::fs::node::Node;

/// A file or directory whose names and attributes are to be flushed.
pub(in crate::fs) struct MetadataRequest {
    pub(super) node: Arc<Node>,
    pub(super) kept: KeptOpen,
}

/// Adds new requests to `requests`, each file once. There is nearly always one directory, or a few.
pub(super) fn merge(requests: &mut Vec<MetadataRequest>, new: Vec<MetadataRequest>) {
    for new in new {
        match requests.iter_mut().find(|other| Arc::ptr_eq(&other.node, &new.node)) {
            Some(other) => other.kept = other.kept.take().or(new.kept),
            None => requests.push(new),
        }
    }
}
