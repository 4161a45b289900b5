//! Bases: one microVM per runtime and size of memory, booted once with its interpreter up, from which functions start
//! cold and over which their snapshots are layered.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mote_store::{BaseRef, FunctionRecord, NewBase, Store};

use crate::function;
use crate::phases::Phases;
use crate::sandbox::{self, StartError, StartSpec};
use crate::service::{Service, blocking};
use crate::snapshots;
use crate::text::chain;

/// How many are kept. One is as large as a function's snapshot without a base.
const LIMIT: usize = 8;

/// A base that can be restored.
#[derive(Debug, Clone)]
pub struct Base {
    /// What snapshots over it note.
    pub reference: BaseRef,
    /// Its folder.
    pub dir: PathBuf,
}

impl Base {
    /// The base of that reference, in the store.
    pub fn of(store: &Store, reference: BaseRef) -> Self {
        Self { dir: store.base_path(&reference), reference }
    }
}

/// The making of bases: one at a time of each kind, for whoever comes first.
#[derive(Debug, Default)]
pub struct Bases {
    making: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Bases {
    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(making.entry(name.to_owned()).or_default())
    }
}

/// The base a function starts from, made if there is none. `None`: it has to do without.
///
/// # Errors
/// When a guest does not boot: the function's would not either.
pub async fn obtain(
    service: &Arc<Service>,
    function: &FunctionRecord,
    spec: &StartSpec,
    phases: &mut Phases,
) -> Result<Option<Base>, StartError> {
    if !service.config.snapshot.layered {
        return Ok(None);
    }
    let (name, fingerprint) = function::base_name(function, &service.config, &service.system);
    let turn = service.bases.turn(&name);
    let _mine = turn.lock().await;
    if let Some(base) = sound(service, &name, &fingerprint, phases).await {
        phases.lap("base");
        return Ok(Some(base));
    }
    match make(service, function, spec, name, fingerprint, phases).await {
        Ok(made) => Ok(made),
        Err(error @ (StartError::BootFailed { .. } | StartError::BootTimeout { .. })) => Err(error),
        Err(error) => {
            tracing::warn!(function = %function.name, error = %chain(&error), "No base could be made");
            Ok(None)
        }
    }
}

/// The base of that name if it is what is needed, and whole.
async fn sound(service: &Arc<Service>, name: &str, fingerprint: &str, phases: &mut Phases) -> Option<Base> {
    let (store, wanted) = (service.store.clone(), name.to_owned());
    let record = match blocking(move || store.base(&wanted)).await {
        Ok(record) => record.filter(|record| record.fingerprint == fingerprint)?,
        Err(error) => {
            tracing::warn!(base = %name, error = %chain(&error), "Cannot read a base's record");
            return None;
        }
    };
    let base = Base::of(&service.store, record.reference());
    match verify_once(service, &base, phases).await {
        Ok(()) => Some(base),
        Err(problem) => {
            tracing::warn!(base = %name, problem, "Base is damaged: making another");
            give_up(service, &base.reference).await;
            None
        }
    }
}

async fn make(
    service: &Arc<Service>,
    function: &FunctionRecord,
    spec: &StartSpec,
    name: String,
    fingerprint: String,
    phases: &mut Phases,
) -> Result<Option<Base>, StartError> {
    let (store, wanted) = (service.store.clone(), name.clone());
    if !blocking(move || store.admit_base(&wanted, LIMIT)).await.unwrap_or(false) {
        return Ok(None);
    }
    let Some(staged) = snapshots::stage(service, function).await else { return Ok(None) };
    let memory_checksum = sandbox::base(spec, None, staged.path(), phases).await?;
    let (store, new) = (service.store.clone(), NewBase { name, fingerprint, memory_checksum });
    match blocking(move || store.put_base(new, staged)).await {
        Ok(record) => {
            phases.lap("base-stored");
            tracing::info!(base = %record.name, bytes = record.stored_bytes, "Base stored");
            Ok(Some(Base::of(&service.store, record.reference())))
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "Base could not be stored");
            Ok(None)
        }
    }
}

/// Verifies a base's checksums at its first use after boot.
///
/// # Errors
/// What is wrong with it.
pub async fn verify_once(service: &Arc<Service>, base: &Base, phases: &mut Phases) -> Result<(), String> {
    snapshots::verify_folder(service, &base.reference.dir, &base.dir, "verify-base", phases).await
}

/// A base is of no use, and nothing that is layered over it.
pub async fn give_up(service: &Arc<Service>, base: &BaseRef) {
    let (store, base) = (service.store.clone(), base.clone());
    if let Err(error) = blocking(move || store.remove_base(&base)).await {
        tracing::warn!(error = %chain(&error), "Cannot remove a base");
    }
}
