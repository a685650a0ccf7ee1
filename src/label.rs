//! Rules of Kubernetes for names and labels, and the annotations that link a PersistentVolume to
//! its volume.
//!
//! The provisioner and the command line share both, so this module depends on no other.

/// Annotation of a PersistentVolume: its provisioner.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a PersistentVolume: the server of that provisioner that made it. It is no proof of
/// anything, because whoever may patch PersistentVolumes may change it; it only makes other servers
/// ignore the PersistentVolume.
pub const SERVER: &str = "berth.io/server";
/// Annotation of a PersistentVolume: the id of its volume.
pub const VOLUME_ID: &str = "berth.io/volume-id";
/// Annotation of a PersistentVolume: the name of its volume.
pub const VOLUME: &str = "berth.io/volume";

/// Label of a volume: the namespace of the claim for which it was created.
pub const CLAIM_NAMESPACE: &str = "berth.io/claim-namespace";

/// Longest name of an object, in bytes.
const SUBDOMAIN_MAX: usize = 253;

/// Longest name or value of a label, in bytes.
const LABEL_MAX: usize = 63;

/// Whether Kubernetes allows this as the name of an object: a subdomain of RFC 1123, in lower case.
pub fn is_subdomain(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let part = |part: &str| {
        part.bytes().all(inner)
            && !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= SUBDOMAIN_MAX && name.split('.').all(part)
}

/// Whether Kubernetes allows this as a label.
pub fn is_label(key: &str, value: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_subdomain) && is_word(name) && (value.is_empty() || is_word(value))
}

/// Whether this can be the name of an external provisioner. Names in `kubernetes.io` are those of
/// the cluster's own plugins.
pub fn is_provisioner(name: &str) -> bool {
    is_label(&name.to_ascii_lowercase(), "") && !name.starts_with("kubernetes.io/")
}

fn is_word(word: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    word.len() <= LABEL_MAX
        && word.chars().all(|c| end(c) || matches!(c, '-' | '_' | '.'))
        && word.starts_with(end)
        && word.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_rules_of_kubernetes() {
        let bad = ["", "/a", "a/", "a/b/c", "A.b/c_", "a b", &"x".repeat(64)];
        bad.iter().for_each(|key| assert!(!is_label(key, ""), "{key}"));
        assert!(is_label("example.org/A_b.c", "") && is_label(&"x".repeat(63), "A-1"));
        assert!(!is_label("a", "-") && !is_label("a", &"x".repeat(64)));
    }
}
