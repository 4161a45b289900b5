//! The layers of the configuration as this service finds them: what init left, and what the API set.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mote_config::{API_FILE, Layer, MAX_TEXT, Resolved, Source, Sources, resolve};

/// The file that was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("Cannot read {}", .path.display())]
pub struct SourcesError {
    path: PathBuf,
    source: io::Error,
}

/// Why a layer was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// Something is wrong with it: all of that.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    /// It would not count.
    #[error("What the API sets does not count here (machine.api_layer = false)")]
    Off,
    /// The layers below are not known.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The disk.
    #[error("Cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where the layers are.
#[derive(Debug, Clone)]
pub struct Files {
    /// What init left.
    pub layers: PathBuf,
    /// Stands for the file on the configuration partition, if given.
    pub partition: Option<PathBuf>,
}

/// All but what the API has set.
struct Below {
    layers: Vec<Source>,
    /// Where the API's layer is, if it counts.
    api: Option<PathBuf>,
    /// What could not be read.
    unread: Vec<String>,
}

impl Files {
    /// Resolves what is there. What could not be read is told beside it.
    ///
    /// # Errors
    /// When `partition` cannot be read.
    pub fn gather(&self) -> Result<(Resolved, Vec<String>), SourcesError> {
        let Below { mut layers, api, mut unread } = self.below()?;
        if let Some(path) = api {
            match read(&path) {
                Ok(bytes) => layers.push(Source::text(Layer::Api, API_FILE, &bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unread.push(format!("Cannot read {}: {error}", path.display())),
            }
        }
        Ok((resolve(&layers), unread))
    }

    /// Puts a text in place of what the API has set, on disk, if nothing is wrong with it. Gives how many keys it sets.
    ///
    /// # Errors
    /// When something is.
    pub fn set(&self, text: &[u8]) -> Result<usize, SetError> {
        let Below { mut layers, api, .. } = self.below()?;
        let path = api.ok_or(SetError::Off)?;
        layers.push(Source::text(Layer::Api, API_FILE, text));
        let resolved = resolve(&layers);
        let wrong = resolved.rejected.iter().filter(|rejected| rejected.layer == Layer::Api);
        let mistakes: Vec<String> =
            wrong.flat_map(|rejected| &rejected.mistakes).map(ToString::to_string).collect();
        if !mistakes.is_empty() {
            return Err(SetError::Mistakes(mistakes));
        }
        replace(&path, text).map_err(|source| SetError::Write { path, source })?;
        Ok(resolved.settings().filter(|(_, setting)| setting.layer == Layer::Api).count())
    }

    fn below(&self) -> Result<Below, SourcesError> {
        let mut unread = Vec::new();
        let mut sources = match std::fs::read_to_string(&self.layers) {
            Ok(text) => toml::from_str(&text).unwrap_or_else(|error| {
                unread.push(format!("{}: {error}", self.layers.display()));
                Sources::default()
            }),
            // Without init, for debugging.
            Err(_) => Sources::default(),
        };
        if let Some(path) = &self.partition {
            let failed = |source| SourcesError { path: path.clone(), source };
            let bytes = read(path).map_err(failed)?;
            sources.put(Source::text(Layer::Partition, &path.display().to_string(), &bytes));
        }
        // Since init read it, it may have been set anew.
        sources.layers.retain(|source| source.layer != Layer::Api);
        let below = resolve(&sources.layers);
        let counts =
            below.get("machine.api_layer").is_none_or(|setting| setting.value.as_bool() != Some(false));
        let data = below.get("paths.data").and_then(|setting| setting.value.as_str());
        let api = data.filter(|_| counts).map(|data| Path::new(data).join(API_FILE));
        Ok(Below { layers: sources.layers, api, unread })
    }
}

/// Puts a file in place of another in one step that survives a power cut.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let staged = path.with_extension("new");
    // One that is there already has the permissions it was made with.
    let _ = std::fs::remove_file(&staged);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&staged)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    File::open(folder)?.sync_all()
}

/// A file, as far as a layer may be long and a little further.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        folder: tempfile::TempDir,
        files: Files,
    }

    impl Machine {
        fn new(options: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let files = Files { layers: folder.path().join("layers.toml"), partition: None };
            let data = folder.path().join("data").display().to_string();
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let mut words: std::collections::BTreeMap<String, String> = options.iter().map(pair).collect();
            words.insert("paths.data".to_owned(), data);
            let mut sources = Sources::default();
            sources.put(Source::options(words));
            sources.put(Source::text(Layer::Api, "old", b"[sandbox]\nvcpus = 3\n"));
            std::fs::write(&files.layers, toml::to_string(&sources).unwrap()).unwrap();
            Self { folder, files }
        }

        fn vcpus(&self) -> (i64, Layer) {
            let (resolved, unread) = self.files.gather().unwrap();
            assert_eq!((unread, resolved.problems()), (Vec::<String>::new(), Vec::<String>::new()));
            let setting = resolved.get("sandbox.vcpus").unwrap();
            (setting.value.as_integer().unwrap(), setting.layer)
        }
    }

    #[test]
    fn without_init_there_is_what_is_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { layers: folder.path().join("layers.toml"), partition: None };
        let (resolved, unread) = files.gather().unwrap();
        assert!(resolved.rejected.is_empty() && unread.is_empty(), "{unread:?}");
        std::fs::write(&files.layers, "nonsense").unwrap();
        assert_eq!(files.gather().unwrap().1.len(), 1);
        let files = Files { partition: Some(folder.path().join("nowhere")), ..files };
        assert!(files.gather().is_err());
    }

    #[test]
    fn what_the_api_sets_is_the_uppermost_layer() {
        let mut machine = Machine::new(&[]);
        // The file is gone since init read it: so is the layer.
        assert_eq!(machine.vcpus(), (1, Layer::BuiltIn));
        let file = machine.folder.path().join("mote.toml");
        std::fs::write(&file, "[sandbox]\nvcpus = 2\n").unwrap();
        machine.files.partition = Some(file);
        assert_eq!(machine.vcpus(), (2, Layer::Partition));
        assert_eq!(machine.files.set(b"[sandbox]\nvcpus = 4\nqueue_s = 3\n").unwrap(), 2);
        assert_eq!(machine.vcpus(), (4, Layer::Api));
        // What is wrong is told and changes nothing.
        let error = machine.files.set(b"[sandbox]\nvcpu = 5\n").unwrap_err().to_string();
        assert_eq!(error, "config/mote.toml:2:1: sandbox.vcpu: is no key of [sandbox]; did you mean vcpus?");
        assert_eq!(machine.vcpus(), (4, Layer::Api));
        assert_eq!(machine.files.set(b"").unwrap(), 0);
        assert_eq!(machine.vcpus(), (2, Layer::Partition));
        let left = std::fs::read_dir(machine.folder.path().join("data/config")).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn who_locked_himself_out_has_a_way_back() {
        let machine = Machine::new(&[("machine.api_layer", "false")]);
        let folder = machine.folder.path().join("data/config");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("mote.toml"), "[sandbox]\nvcpus = 4\n").unwrap();
        assert_eq!(machine.vcpus(), (1, Layer::BuiltIn));
        assert!(matches!(machine.files.set(b""), Err(SetError::Off)));
    }
}
