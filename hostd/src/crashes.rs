//! The records of crashes that init keeps: shown and removed.

use std::path::PathBuf;

use mote_api::ApiError;
use mote_crash::{Crash, Folder, FolderError, Id, Summary};

use crate::service::blocking;
use crate::text::chain;

/// Where they are.
#[derive(Debug, Clone)]
pub struct Crashes {
    /// On the data disk; in memory, of this boot, what could not be written there.
    folders: [Folder; 2],
}

impl Crashes {
    /// The records in these two folders.
    pub fn new(disk: PathBuf, memory: PathBuf) -> Self {
        Self { folders: [disk, memory].map(Folder::new) }
    }

    /// All, oldest first.
    pub async fn list(&self) -> Result<Vec<Summary>, ApiError> {
        let folders = self.folders.clone();
        let listed = blocking(move || {
            let mut all = Vec::new();
            for folder in &folders {
                all.extend(folder.list()?);
            }
            Ok::<_, FolderError>(all)
        });
        let mut all = listed.await.map_err(failed)?;
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// One of them.
    pub async fn get(&self, name: &str) -> Result<Crash, ApiError> {
        let id = parse(name)?;
        let folders = self.folders.clone();
        let read = blocking(move || {
            for folder in &folders {
                if let Some(crash) = folder.read(&id)? {
                    return Ok(Some(crash));
                }
            }
            Ok::<_, FolderError>(None)
        });
        read.await.map_err(failed)?.ok_or_else(|| missing(name))
    }

    /// Removes one.
    pub async fn remove(&self, name: &str) -> Result<(), ApiError> {
        let id = parse(name)?;
        let folders = self.folders.clone();
        let removed = blocking(move || {
            let mut any = false;
            for folder in &folders {
                any |= folder.remove(&id)?;
            }
            Ok::<_, FolderError>(any)
        });
        removed.await.map_err(failed)?.then_some(()).ok_or_else(|| missing(name))
    }
}

fn parse(name: &str) -> Result<Id, ApiError> {
    Id::parse(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> ApiError {
    ApiError::ResourceNotFound(format!("There is no crash {}: see /system/crashes", name.escape_debug()))
}

fn failed(error: FolderError) -> ApiError {
    ApiError::Service(chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_crash::Kind;

    #[tokio::test]
    async fn records_of_both_folders_are_shown_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let [disk, memory] = ["disk", "memory"].map(|name| root.path().join(name));
        let crashes = Crashes::new(disk.clone(), memory.clone());
        assert!(crashes.list().await.unwrap().is_empty());
        Folder::new(memory).note(&Crash::new(Kind::Hostd, 7, "signal 11", "said")).unwrap();
        Folder::new(disk).note(&Crash::new(Kind::Kernel, 9, "panic", "said")).unwrap();
        let list = crashes.list().await.unwrap();
        assert_eq!(list.iter().map(|crash| crash.unix_ms).collect::<Vec<_>>(), [7, 9]);
        for summary in list {
            let name = summary.id.to_string();
            assert_eq!(crashes.get(&name).await.unwrap().text, "said");
            crashes.remove(&name).await.unwrap();
            assert!(matches!(crashes.get(&name).await, Err(ApiError::ResourceNotFound(_))));
            assert!(matches!(crashes.remove(&name).await, Err(ApiError::ResourceNotFound(_))));
        }
        assert!(matches!(crashes.get("../../etc/passwd").await, Err(ApiError::ResourceNotFound(_))));
    }
}
