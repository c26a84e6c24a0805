//! The paths of fields that a kind doesn't have, as people write them.
//!
//! `metadata` and `status` are the API server's and other controllers': only the parts in use are read, and what else
//! stands there is nobody's mistake.

use serde_ignored::Path;

/// The field's path, or None where such a field is nothing to speak of.
pub fn unknown(path: &Path<'_>) -> Option<String> {
    let text = written(path);
    let first = text.split('.').next().unwrap_or_default();
    (!matches!(first, "apiVersion" | "kind" | "metadata" | "status")).then_some(text)
}

fn written(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", written(parent)),
        Path::Map { parent, key } => {
            let parent = written(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            written(parent)
        }
    }
}
