//! The configuration while the machine comes up: layers are found one after the other, and whoever needs a setting sees
//! what is known so far.

pub mod metadata;
pub mod partition;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mote_config::{Layer, MAX_TEXT, Resolved, SOURCES_PATH, Source, Sources, resolve};
use tokio::sync::watch;

use crate::log;
use crate::options::Options;
use crate::text::replace_secret_file;

/// What is known so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Settings of all layers that were found.
    pub options: Options,
    /// The layers that are there whenever the machine can be set up at all were looked for.
    pub ready: bool,
}

/// The layers, and what they come to.
#[derive(Debug)]
pub struct Configuration {
    sources: Mutex<Sources>,
    known: watch::Sender<Known>,
    /// Where hostd finds the layers.
    file: PathBuf,
}

impl Configuration {
    /// The built-in layer and the options of the kernel command line.
    pub fn new(command_line: Source) -> Self {
        Self::with_file(command_line, SOURCES_PATH.into())
    }

    fn with_file(command_line: Source, file: PathBuf) -> Self {
        let mut sources = Sources::default();
        sources.put(command_line);
        let options = Options::of(&resolve(&sources.layers));
        Self {
            sources: Mutex::new(sources),
            known: watch::Sender::new(Known { options, ready: false }),
            file,
        }
    }

    /// Settings as they are now.
    pub fn options(&self) -> Options {
        self.known.borrow().options.clone()
    }

    /// Follows them.
    pub fn follow(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// All layers together, and what is wrong with them.
    pub fn resolved(&self) -> Resolved {
        resolve(&self.sources.lock().unwrap_or_else(PoisonError::into_inner).layers)
    }

    /// Adds a layer, or puts it in place of what it was. Says what is wrong with it; none if there is nothing new.
    pub fn put(&self, source: Source) -> Option<Vec<String>> {
        let layer = source.layer;
        let resolved = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if !sources.put(source) {
                return None;
            }
            resolve(&sources.layers)
        };
        let rejected = resolved.rejected.iter().filter(|rejected| rejected.layer == layer);
        let problems: Vec<String> = rejected.map(mote_config::Rejected::told).collect();
        for problem in &problems {
            log::line(&format!("configuration: {problem}"));
        }
        let options = Options::of(&resolved);
        self.known.send_if_modified(|known| {
            let changed = known.options != options;
            known.options = options;
            changed
        });
        Some(problems)
    }

    /// From now on the machine can be set up by what is known.
    pub fn ready(&self) {
        self.known.send_if_modified(|known| !std::mem::replace(&mut known.ready, true));
    }

    /// Leaves the layers for hostd, which resolves them again.
    pub fn write(&self) {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = match toml::to_string(&sources) {
            Ok(text) => replace_secret_file(&self.file, &text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            log::line(&format!("Cannot write {}: {error}", self.file.display()));
        }
    }
}

/// Reads a file that may be a layer, not further than one can be long; none if it is not there.
pub fn read(path: &Path, layer: Layer, name: &str) -> std::io::Result<Option<Source>> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(Source::text(layer, name, &bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn layers_come_one_after_the_other_and_reach_hostd() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layers.toml");
        let words = [("hostname".to_owned(), "by-word".to_owned())].into();
        let configuration = Configuration::with_file(Source::options(words), file.clone());
        let mut known = configuration.follow();
        assert_eq!(known.borrow_and_update().options.hostname, "by-word");
        // A layer below does not change what is set above.
        let partition = Source::text(Layer::Partition, "p", b"[machine]\nhostname = 'by-file'\n");
        assert_eq!(configuration.put(partition.clone()), Some(Vec::new()));
        assert!(!known.has_changed().unwrap());
        assert_eq!(configuration.put(partition), None);
        configuration.put(Source::text(Layer::UserData, "u", b"[machine]\nhostname = 'by-cloud'\n"));
        assert_eq!(known.borrow_and_update().options.hostname, "by-cloud");
        configuration.ready();
        configuration.ready();
        assert!(known.borrow_and_update().ready);
        let problems = configuration.put(Source::text(Layer::UserData, "u", b"[machine]\nhostnam = 'x'\n"));
        assert!(problems.unwrap()[0].contains("u:2:1: machine.hostnam"));
        assert_eq!(configuration.options().hostname, "by-word");

        configuration.write();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read: Sources = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(resolve(&read.layers), configuration.resolved());
    }

    #[test]
    fn files_are_read_as_far_as_a_layer_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mote.toml");
        assert!(read(&path, Layer::Api, "x").unwrap().is_none());
        assert!(read(folder.path(), Layer::Api, "x").is_err());
        std::fs::write(&path, vec![b'#'; 2 * MAX_TEXT]).unwrap();
        let source = read(&path, Layer::Api, "x").unwrap().unwrap();
        assert!(resolve(&[source]).problems()[0].contains("at most"));
    }
}
