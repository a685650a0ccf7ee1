//! Which names and labels Kubernetes takes, and the annotations that say which volume a
//! PersistentVolume is: a leaf, so that whoever asks people for names can refuse them in words of his
//! own, and all who write PersistentVolumes write the same.

/// Annotation of a PersistentVolume: its provisioner.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a PersistentVolume: which server of that provisioner it was made by. Anybody who may
/// patch PersistentVolumes may change it: it only has other servers keep their hands off.
pub const SERVER: &str = "berth.io/server";
/// Annotation of a PersistentVolume: the id of its volume.
pub const VOLUME_ID: &str = "berth.io/volume-id";
/// Annotation of a PersistentVolume: the name of its volume.
pub const VOLUME: &str = "berth.io/volume";

/// The namespace of the claim that a volume was made for: a label of the volume.
pub const CLAIM_NAMESPACE: &str = "berth.io/claim-namespace";

/// Longest name of an object, in bytes.
const SUBDOMAIN_MAX: usize = 253;

/// Longest part of a label, in bytes.
const LABEL_MAX: usize = 63;

/// Names of objects: RFC 1123, small letters only.
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

/// Whether Kubernetes takes a label.
pub fn is_label(key: &str, value: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_subdomain) && is_word(name) && (value.is_empty() || is_word(value))
}

/// Whether this can be a provisioner's name. Those of `kubernetes.io` are the cluster's own plugins.
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
    fn labels_are_those_of_kubernetes() {
        let bad = ["", "/a", "a/", "a/b/c", "A.b/c_", "a b", &"x".repeat(64)];
        bad.iter().for_each(|key| assert!(!is_label(key, ""), "{key}"));
        assert!(is_label("example.org/A_b.c", "") && is_label(&"x".repeat(63), "A-1"));
        assert!(!is_label("a", "-") && !is_label("a", &"x".repeat(64)));
    }
}
