//! Records in memory: what serves when the database has failed or the disk is read-only. The journal is still
//! written, so nothing is lost, and the database is built again when the store is opened next.

use std::sync::{PoisonError, RwLock};

use crate::records::{Change, Contents, Records, RecordsError, change};

#[derive(Debug)]
pub(crate) struct Memory(RwLock<Contents>);

impl Memory {
    pub(crate) fn new(contents: Contents) -> Self {
        Self(RwLock::new(contents))
    }
}

impl Records for Memory {
    fn get(&self, key: &str) -> Result<Option<String>, RecordsError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, prefix: &str) -> Result<Contents, RecordsError> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let from = state.range(prefix.to_owned()..);
        Ok(from.take_while(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn apply(&self, _seq: u64, changes: &[Change]) -> Result<(), RecordsError> {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state, changes);
        Ok(())
    }
}
