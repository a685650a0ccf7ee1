//! The result of reclaiming a volume, as text for terminals. Pure.

use super::text;
use crate::volume::Reclaimed;
use crate::volume::name::VolumeName;
use crate::volume::spec::OnDelete;

/// Returns the result in one line. For an archived volume it is the directory alone, for scripts.
pub fn outcome(name: &VolumeName, reclaimed: &Reclaimed) -> String {
    let line = match reclaimed {
        Reclaimed::Archived(directory) => directory.clone(),
        Reclaimed::Deleted => {
            format!("volume {name} is deleted; its files are removed in the background")
        }
        Reclaimed::Recycled(_) => {
            format!("volume {name} is recycled: it is empty, and clients must mount it again")
        }
        Reclaimed::Retained(status) => {
            let why = match status.spec.on_delete {
                OnDelete::Retain => "its --on-delete",
                OnDelete::Delete | OnDelete::Archive | OnDelete::Recycle => "--on-delete retain",
            };
            format!(
                "volume {name} is retained ({why}): nothing was removed, and it is still served; \
                 to remove it: berth volume delete --on-delete delete {name}"
            )
        }
    };
    format!("{}\n", text::plain(&line))
}
