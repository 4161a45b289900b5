//! The layers of the configuration as this service finds them: what init left, and what the API set.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mote_config::{API_FILE, Layer, MAX_TEXT, Resolved, Source, Sources, resolve};

/// The file that was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("Cannot read {}", .path.display())]
pub struct SourcesError {
    path: PathBuf,
    source: std::io::Error,
}

/// Resolves what is there. What could not be read is told beside it. With `partition`, that file stands for the one on
/// the configuration partition.
///
/// # Errors
/// When `partition` cannot be read.
pub fn gather(layers: &Path, partition: Option<&Path>) -> Result<(Resolved, Vec<String>), SourcesError> {
    let mut unread = Vec::new();
    let mut sources = match std::fs::read_to_string(layers) {
        Ok(text) => toml::from_str(&text).unwrap_or_else(|error| {
            unread.push(format!("{}: {error}", layers.display()));
            Sources::default()
        }),
        // Without init, for debugging.
        Err(_) => Sources::default(),
    };
    if let Some(path) = partition {
        let failed = |source| SourcesError { path: path.to_owned(), source };
        let bytes = read(path).map_err(failed)?;
        sources.put(Source::text(Layer::Partition, &path.display().to_string(), &bytes));
    }
    // What the API set since the boot; where the data disk is, the layers below it say.
    let below: Vec<Source> =
        sources.layers.iter().filter(|source| source.layer < Layer::Api).cloned().collect();
    let data =
        resolve(&below).get("paths.data").and_then(|setting| setting.value.as_str().map(PathBuf::from));
    if let Some(path) = data.map(|data| data.join(API_FILE)) {
        match read(&path) {
            Ok(bytes) => {
                sources.put(Source::text(Layer::Api, &path.display().to_string(), &bytes));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                sources.layers.retain(|source| source.layer != Layer::Api);
            }
            Err(error) => unread.push(format!("Cannot read {}: {error}", path.display())),
        }
    }
    Ok((resolve(&sources.layers), unread))
}

/// A file, as far as a layer may be long and a little further.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_left_and_the_api_set_are_layers() {
        let folder = tempfile::tempdir().unwrap();
        let (layers, data) = (folder.path().join("layers.toml"), folder.path().join("data"));
        let (absent, unread) = gather(&layers, None).unwrap();
        assert!(absent.rejected.is_empty() && unread.is_empty(), "{unread:?}");

        let mut sources = Sources::default();
        sources.put(Source::options([("paths.data".to_owned(), data.display().to_string())].into()));
        sources.put(Source::text(Layer::Api, "old", b"[sandbox]\nvcpus = 3\n"));
        std::fs::write(&layers, toml::to_string(&sources).unwrap()).unwrap();
        let vcpus = |partition: Option<&Path>| {
            let (resolved, unread) = gather(&layers, partition).unwrap();
            assert_eq!(unread, Vec::<String>::new());
            let setting = resolved.get("sandbox.vcpus").unwrap();
            (setting.value.as_integer().unwrap(), setting.layer)
        };
        // The file is gone: so is its layer.
        assert_eq!(vcpus(None), (1, Layer::BuiltIn));
        let file = folder.path().join("mote.toml");
        std::fs::write(&file, "[sandbox]\nvcpus = 2\n").unwrap();
        assert_eq!(vcpus(Some(&file)), (2, Layer::Partition));
        std::fs::create_dir_all(data.join("config")).unwrap();
        std::fs::write(data.join(API_FILE), "[sandbox]\nvcpus = 4\n").unwrap();
        assert_eq!(vcpus(Some(&file)), (4, Layer::Api));
        assert!(gather(&layers, Some(&folder.path().join("nowhere"))).is_err());

        std::fs::write(&layers, "nonsense").unwrap();
        assert_eq!(gather(&layers, None).unwrap().1.len(), 1);
    }
}
