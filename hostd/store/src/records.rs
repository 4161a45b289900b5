//! The records as keys and JSON texts: the small trait the database is behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// All records: key (`table/name`) to JSON text.
pub(crate) type Contents = BTreeMap<String, String>;

/// One record put (`Some`) or deleted (`None`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    /// `table/name`.
    pub key: String,
    /// The record as JSON.
    pub value: Option<Box<RawValue>>,
}

/// Why a database failed; it is not used again after that.
#[derive(Debug, thiserror::Error)]
#[error("Database failed: {0}")]
pub(crate) struct RecordsError(pub String);

/// A database of records. Reads may run beside a write and see it whole or not at all.
pub(crate) trait Records: Send + Sync + std::fmt::Debug {
    /// Reads one record.
    fn get(&self, key: &str) -> Result<Option<String>, RecordsError>;

    /// All records whose key starts with `prefix`, in order of their keys.
    fn scan(&self, prefix: &str) -> Result<Contents, RecordsError>;

    /// Makes all changes or none, notes `seq` as the last change seen, and flushes.
    fn apply(&self, seq: u64, changes: &[Change]) -> Result<(), RecordsError>;
}

/// Makes `changes` in `contents`.
pub(crate) fn change(contents: &mut Contents, changes: &[Change]) {
    for change in changes {
        match &change.value {
            Some(value) => contents.insert(change.key.clone(), value.get().to_owned()),
            None => contents.remove(&change.key),
        };
    }
}

/// What changes make `from` the same as `to`.
pub(crate) fn difference(from: &Contents, to: &Contents) -> Result<Vec<Change>, serde_json::Error> {
    let gone = from
        .keys()
        .filter(|key| !to.contains_key(*key))
        .map(|key| Ok(Change { key: key.clone(), value: None }));
    let put = to.iter().filter(|(key, value)| from.get(*key) != Some(value)).map(|(key, value)| {
        Ok(Change { key: key.clone(), value: Some(RawValue::from_string(value.clone())?) })
    });
    gone.chain(put).collect()
}
