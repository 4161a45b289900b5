//! Deploying: a zip becomes a code image, a record, a function that can be called.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use mote_package::{HandlerError, Limits, PackageError};
use mote_store::{FunctionConfig, FunctionRecord, NewCode, Store, StoreError};
use uuid::Uuid;

use crate::concurrency::{self, ConcurrencyError, Demand};
use crate::config::Config;
use crate::function;
use crate::sandbox::CODE_DRIVE_MIB;
use crate::service::{Service, blocking};

/// Why a function was not created or changed. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The package is not acceptable.
    #[error(transparent)]
    Package(PackageError),
    /// The handler's module is not in the package.
    #[error(transparent)]
    Handler(HandlerError),
    /// This system has no such runtime.
    #[error("Runtime '{runtime}' is not available here; available: {available}")]
    Runtime {
        /// What was asked for.
        runtime: String,
        /// What there is.
        available: String,
    },
    /// More is to be reserved or provisioned than there is.
    #[error(transparent)]
    Concurrency(ConcurrencyError),
    /// The store refused.
    #[error(transparent)]
    Store(StoreError),
}

/// Creates a function.
///
/// # Errors
/// When package, handler, runtime or store say no.
pub async fn create(
    service: &Arc<Service>,
    name: String,
    config: FunctionConfig,
    zip: Bytes,
) -> Result<FunctionRecord, DeployError> {
    check_runtime(service, &config.runtime)?;
    // Looked at before the work is done; decided by the store when it is.
    if service.look_up(&name).await.is_some() {
        return Err(DeployError::Store(StoreError::Exists { name }));
    }
    let code = package(service, &name, config.handler.clone(), config.runtime.clone(), zip).await?;
    let store = service.store.clone();
    let record =
        blocking(move || store.create_function(&name, config, code)).await.map_err(DeployError::Store)?;
    service.register(&record);
    Ok(record)
}

/// Gives a function new code.
///
/// # Errors
/// As [`create`]; when `expected` is not the function's revision.
pub async fn update_code(
    service: &Arc<Service>,
    name: String,
    expected: Option<Uuid>,
    zip: Bytes,
) -> Result<FunctionRecord, DeployError> {
    let before = existing(service, &name).await?;
    if expected.is_some_and(|expected| expected != before.revision_id) {
        return Err(DeployError::Store(StoreError::Conflict { name }));
    }
    let (handler, runtime) = (before.config.handler.clone(), before.config.runtime.clone());
    let code = package(service, &name, handler, runtime, zip).await?;
    let store = service.store.clone();
    let record =
        blocking(move || store.update_code(&name, expected, code)).await.map_err(DeployError::Store)?;
    service.replace(&before, &record).await;
    Ok(record)
}

/// Checks everything [`update_code`] would, and changes nothing: the function as it would be.
///
/// # Errors
/// As [`update_code`].
pub async fn check_code(
    service: &Arc<Service>,
    name: String,
    expected: Option<Uuid>,
    zip: Bytes,
) -> Result<FunctionRecord, DeployError> {
    let mut record = existing(service, &name).await?;
    if expected.is_some_and(|expected| expected != record.revision_id) {
        return Err(DeployError::Store(StoreError::Conflict { name }));
    }
    let (handler, runtime) = (record.config.handler.clone(), record.config.runtime.clone());
    let code = package(service, &name, handler, runtime, zip).await?;
    record.code.sha256_base64 = code.sha256_base64;
    record.code.zip_size = code.zip_size;
    Ok(record)
}

/// Changes a function's configuration.
///
/// # Errors
/// When the new handler or runtime cannot be, there is not enough for what is to be reserved or provisioned, or the
/// store says no.
pub async fn update_config(
    service: &Arc<Service>,
    name: String,
    expected: Option<Uuid>,
    change: impl FnOnce(&mut FunctionConfig) + Send + 'static,
) -> Result<FunctionRecord, DeployError> {
    let before = existing(service, &name).await?;
    let mut config = before.config.clone();
    change(&mut config);
    check_runtime(service, &config.runtime)?;
    if config.handler != before.config.handler || config.runtime != before.config.runtime {
        let image = service.store.image_path(&before.code);
        let (handler, runtime) = (config.handler.clone(), config.runtime.clone());
        blocking(move || check_handler(&image, &handler, &runtime)).await?;
    }
    let (held, wanted) = (demand(service, &before, &before.config), demand(service, &before, &config));
    let turn = match held == wanted {
        true => None,
        false => {
            let turn = Arc::clone(&service.shares).lock_owned().await;
            check_shares(service, &name, wanted).await?;
            Some(turn)
        }
    };
    // Checked against the record as read: the change only holds if that is still the record.
    let expected = expected.or(Some(before.revision_id));
    let owner = Arc::clone(service);
    // In one piece: what is stored holds, whether or not somebody still waits for the answer.
    let update = move || {
        let stale = owner.store.snapshot(&name)?;
        let record = owner.store.update_config(&name, expected, move |current| *current = config)?;
        if turn.is_some() {
            owner.limit(&name);
        }
        Ok((record, stale))
    };
    let (record, stale) = blocking(update).await.map_err(DeployError::Store)?;
    if service.fingerprint(&record) != service.fingerprint(&before) {
        service.replace(&before, &record).await;
        let (store, name) = (service.store.clone(), record.name.clone());
        // By its folder: a snapshot of the new configuration may be there already and stays.
        blocking(move || match stale {
            Some(snapshot) => store.mark_rebuild(&name, &snapshot.dir),
            None => Ok(()),
        })
        .await
        .map_err(DeployError::Store)?;
    }
    Ok(record)
}

/// Deletes a function with its code, snapshot and idle sandboxes. Running calls end by themselves.
///
/// # Errors
/// When there is none, or the store says no.
pub async fn delete(service: &Arc<Service>, name: String) -> Result<(), DeployError> {
    let store = service.store.clone();
    let gone = name.clone();
    let before = blocking(move || store.delete_function(&gone)).await.map_err(DeployError::Store)?;
    service.forget(&before).await;
    service.logs.remove(&name);
    Ok(())
}

async fn existing(service: &Service, name: &str) -> Result<FunctionRecord, DeployError> {
    service
        .look_up(name)
        .await
        .ok_or_else(|| DeployError::Store(StoreError::NotFound { what: "Function", name: name.to_owned() }))
}

fn demand(service: &Service, record: &FunctionRecord, config: &FunctionConfig) -> Demand {
    let as_configured = FunctionRecord { config: config.clone(), ..record.clone() };
    Demand::of(config, service.settings(&as_configured).tenant)
}

/// Whether there is enough for what this function is to have reserved and provisioned.
async fn check_shares(service: &Arc<Service>, name: &str, wanted: Demand) -> Result<(), DeployError> {
    let store = service.store.clone();
    let all = blocking(move || store.functions()).await.map_err(DeployError::Store)?;
    let others = all.iter().filter(|record| record.name != name);
    let others: Vec<Demand> = others.map(|record| demand(service, record, &record.config)).collect();
    let bounds = service.pool.bounds(&wanted.tenant);
    concurrency::check(&wanted, &others, bounds).map_err(DeployError::Concurrency)
}

fn check_runtime(service: &Service, runtime: &str) -> Result<(), DeployError> {
    if function::runtime_image(&service.config, runtime).is_some() {
        return Ok(());
    }
    let available = function::runtimes(&service.config).join(", ");
    Err(DeployError::Runtime { runtime: runtime.to_owned(), available })
}

fn check_handler(image: &std::path::Path, handler: &str, runtime: &str) -> Result<(), DeployError> {
    if runtime.starts_with("python") {
        mote_package::check_python_handler(image, handler).map_err(DeployError::Handler)?;
    }
    Ok(())
}

/// Most bytes of the files in a package: an image is hardly larger, and has to fit on its drive.
pub fn unpacked_limit(config: &Config) -> u64 {
    config.package.max_unpacked_mb.min(CODE_DRIVE_MIB / 2) << 20
}

/// Builds the code image of a zip in a staged file. Room is made by evicting snapshots, never code.
async fn package(
    service: &Arc<Service>,
    name: &str,
    handler: String,
    runtime: String,
    zip: Bytes,
) -> Result<NewCode, DeployError> {
    // A closed semaphore cannot be: it lives as long as the service.
    let _turn = service.deploys.acquire().await;
    let limits = Limits {
        unpacked_bytes: unpacked_limit(&service.config),
        entries: service.config.package.max_entries,
        ..Limits::default()
    };
    let (service, name) = (Arc::clone(service), name.to_owned());
    blocking(move || {
        let store = &service.store;
        let estimate = u64::try_from(zip.len()).unwrap_or(u64::MAX);
        let staged = service.stage(estimate, &name, Store::stage_file).map_err(DeployError::Store)?;
        let image: PathBuf = staged.path().to_owned();
        let info = mote_package::build(&zip, &image, &limits).map_err(|error| no_space(store, error))?;
        check_handler(&image, &handler, &runtime)?;
        Ok(NewCode {
            image: staged,
            sha256_base64: info.code_sha256_base64,
            zip_size: info.code_size,
            unpacked_size: info.unpacked_size,
        })
    })
    .await
}

fn no_space(store: &Store, error: PackageError) -> DeployError {
    if error.is_no_space() {
        let free = store.space().map_or(0, |space| space.free);
        return DeployError::Store(StoreError::NoSpace { needed: 0, free });
    }
    DeployError::Package(error)
}
