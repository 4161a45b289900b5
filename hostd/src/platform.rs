//! The appliance behind the front door.

mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mote_api::{
    Account, ApiError, Bundle, Caller, Component, CreateFunction, Function, FunctionPage, Health,
    InvokeReply, InvokeRequest, Limits, Platform, Provisioned, ResetReply, TagChange, UpdateCode,
    UpdateConfiguration, UpdateWish, Upload, Wipe, Wishes,
};
use mote_reset::What;
use mote_store::{FunctionConfig, FunctionRecord, StoreError};
use mote_update::slots::Force;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::boot::BootFacts;
use crate::bundle::Told;
use crate::census::Census;
use crate::config::{self, Files, SetError};
use crate::deploy::{self, DeployError};
use crate::operation::Operation;
use crate::pool::{MONITOR_OVERHEAD_MB, Refusal, Snapshot};
use crate::serve::{self, ServeError, Served};
use crate::service::{Service, blocking};
use crate::text::{chain, unix_ms};
use crate::update::{CalledOff, Tried, UpdateError};
use crate::{Version, function, service, snapshots};

use words::{
    RETRY_AFTER, answered, call, check_tenant, describe, provisioned, replace, reply, revision, serve_error,
};

/// How often a call is made to be recorded: the clean snapshot is made durable behind the call that made it.
const RECORDING_TRIES: usize = 3;

/// How often a change of tags or of concurrency that another change overtook is made again.
const CHANGE_ATTEMPTS: usize = 8;

/// The machine as the front door sees it. Without a data disk there is no service, but it still answers.
#[derive(Debug)]
pub struct Appliance {
    service: Option<Arc<Service>>,
    problems: Vec<String>,
    version: Version,
    operation: Operation,
    configuration: Files,
    started: Instant,
    draining: AtomicBool,
}

impl Appliance {
    /// An appliance over `service`; `problems` are told at `/healthz`.
    pub fn new(
        service: Option<Arc<Service>>,
        problems: Vec<String>,
        version: Version,
        operation: Operation,
        configuration: Files,
    ) -> Self {
        let draining = AtomicBool::new(false);
        Self { service, problems, version, operation, configuration, started: Instant::now(), draining }
    }

    /// New calls are refused from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn is_up(&self) -> Result<(), ApiError> {
        if self.draining.load(Ordering::Acquire) {
            let message = "The machine is shutting down: try again when it is up".to_owned();
            return Err(ApiError::Unavailable { message, retry_after: RETRY_AFTER });
        }
        Ok(())
    }

    fn service(&self) -> Result<&Arc<Service>, ApiError> {
        self.is_up()?;
        self.service.as_ref().ok_or_else(|| ApiError::Unavailable {
            message: format!("Functions are unavailable: {}", self.problems.join("; ")),
            retry_after: Duration::from_secs(60),
        })
    }

    fn writable(&self) -> Result<&Arc<Service>, ApiError> {
        match self.service() {
            Err(ApiError::Unavailable { message, .. }) if self.service.is_none() => {
                Err(ApiError::CodeStorageExceeded(message))
            }
            other => other,
        }
    }

    fn deploy_error(&self, error: &DeployError) -> ApiError {
        let message = chain(error);
        match error {
            DeployError::Package(error) if error.is_host_fault() => ApiError::Service(message),
            DeployError::Handler(mote_package::HandlerError::Image { .. }) => ApiError::Service(message),
            DeployError::Package(_)
            | DeployError::Handler(_)
            | DeployError::Runtime { .. }
            | DeployError::Concurrency(_) => ApiError::InvalidParameterValue(message),
            DeployError::Store(error) => match error {
                StoreError::NoSpace { .. } | StoreError::ReadOnly => ApiError::CodeStorageExceeded(message),
                StoreError::Exists { name } => ApiError::function_exists(name),
                StoreError::NotFound { name, .. } => self.not_found(name),
                StoreError::Conflict { .. } | StoreError::Stale { .. } => {
                    ApiError::PreconditionFailed(message)
                }
                StoreError::Unsure => {
                    tracing::error!(error = %message, "Starting over, which settles it");
                    let _ = kill_process(rustix::process::getpid(), Signal::TERM);
                    ApiError::Service(message)
                }
                _ => {
                    tracing::error!(error = %message, "The store failed");
                    ApiError::Service(message)
                }
            },
        }
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::function_not_found(&self.identity().function_arn(name))
    }

    async fn find(&self, name: &str) -> Result<FunctionRecord, ApiError> {
        self.service()?.look_up(name).await.ok_or_else(|| self.not_found(name))
    }

    /// Makes a change to a function's configuration, again if another change was quicker. One that changes nothing is
    /// none.
    async fn reconfigure(
        &self,
        name: &str,
        change: impl Fn(&mut FunctionConfig) -> Result<(), ApiError>,
    ) -> Result<FunctionRecord, ApiError> {
        let service = self.writable()?;
        for _ in 0..CHANGE_ATTEMPTS {
            let before = self.find(name).await?;
            let mut config = before.config.clone();
            change(&mut config)?;
            if config == before.config {
                return Ok(before);
            }
            let set = move |current: &mut FunctionConfig| *current = config;
            match deploy::update_config(service, name.to_owned(), Some(before.revision_id), set).await {
                // Changed meanwhile: to be made to what it is now.
                Err(DeployError::Store(StoreError::Conflict { .. })) => {}
                updated => return updated.map_err(|error| self.deploy_error(&error)),
            }
        }
        Err(ApiError::update_in_progress(&self.identity().function_arn(name)))
    }

    async fn serve(&self, request: InvokeRequest, record: bool) -> Result<Served, ApiError> {
        let function = self.find(&request.function).await?;
        let service = Arc::clone(self.service()?);
        let name = request.function.clone();
        // Dropped when the caller hangs up.
        let (_caller, listening) = oneshot::channel();
        // In a task: the call ends in order even then.
        match tokio::spawn(serve::serve(service, call(function, request, record), listening)).await {
            Ok(Ok(served)) => Ok(served),
            Ok(Err(error)) => {
                match &error {
                    // As many as people care to send: counted at /system/status.
                    ServeError::Refused(
                        Refusal::Full { .. }
                        | Refusal::Expired { .. }
                        | Refusal::Hopeless { .. }
                        | Refusal::Forbidden
                        | Refusal::HungUp,
                    ) => {
                        tracing::debug!(function = %name, error = %chain(&error), "Call refused");
                    }
                    _ => tracing::warn!(function = %name, error = %chain(&error), "Call failed"),
                }
                Err(serve_error(&error))
            }
            Err(error) => Err(ApiError::Service(format!("The call ended abnormally: {error}"))),
        }
    }

    /// The snapshot of a function that can be restored now.
    async fn snapshot(&self, name: &str) -> Result<Arc<Snapshot>, ApiError> {
        let record = self.find(name).await?;
        let service = self.service()?;
        let key = function::key(&record, &service.fingerprint(&record));
        service.pool.snapshot(&key).ok_or_else(|| {
            ApiError::ResourceNotFound(format!("Function {name} has no snapshot now: call it first"))
        })
    }

    async fn get_snapshot(&self, _: &Caller, name: &str) -> Result<Value, ApiError> {
        Ok(json!(self.snapshot(name).await?.record))
    }

    /// What is answered when a version is to be tried, which begins now if that is wished for.
    fn tried(tried: Tried, wish: UpdateWish) -> Value {
        let rebooting = wish.reboot.then(|| Self::signal_init(Signal::INT));
        let problem = rebooting.as_ref().and_then(|done| done.as_ref().err()).map(ToString::to_string);
        json!({
            "version": tried.version,
            "slot": tried.slot.name(),
            "state": if matches!(rebooting, Some(Ok(()))) { "rebooting" } else { "pending" },
            "problem": problem,
        })
    }

    fn signal_init(signal: Signal) -> Result<(), ApiError> {
        // Outside of the appliance, process 1 is somebody else's.
        let init = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
        if !matches!(init.trim(), "init" | "mote-init") {
            return Err(ApiError::Service("Process 1 is not mote-init: this is no appliance".to_owned()));
        }
        kill_process(Pid::INIT, signal)
            .map_err(|error| ApiError::Service(format!("Cannot signal init: {error}")))
    }
}

impl Platform for Appliance {
    fn limits(&self) -> Limits {
        let Some(service) = &self.service else { return Limits::default() };
        let capacity_mb = service.pool.usage().capacity_mb.saturating_sub(MONITOR_OVERHEAD_MB);
        Limits {
            max_memory_mb: u32::try_from(capacity_mb).unwrap_or(u32::MAX).clamp(128, 10_240),
            runtimes: function::runtimes(&service.config),
            ..Limits::default()
        }
    }

    async fn create_function(&self, _: &Caller, request: CreateFunction) -> Result<Function, ApiError> {
        let service = self.writable()?;
        check_tenant(service, &request.tags)?;
        let config = FunctionConfig {
            runtime: request.runtime,
            handler: request.handler,
            role: request.role,
            description: request.description,
            memory_mb: request.memory_mb,
            timeout_s: request.timeout_s,
            storage_mb: request.storage_mb,
            environment: request.environment,
            architectures: request.architectures,
            package_type: "Zip".to_owned(),
            tags: request.tags,
            reserved_concurrency: None,
            provisioned_concurrency: None,
            provisioned_unix_ms: 0,
        };
        let created = deploy::create(service, request.name, config, request.zip).await;
        if let Ok(record) = &created {
            // Behind the answer: it is there when the function is called.
            let (service, tenant) = (Arc::clone(service), service.settings(record).tenant);
            tokio::spawn(async move { service.networks.prepare(&tenant).await });
        }
        created.map(describe).map_err(|error| self.deploy_error(&error))
    }

    async fn get_function(&self, _: &Caller, name: &str) -> Result<Function, ApiError> {
        self.find(name).await.map(describe)
    }

    async fn list_functions(
        &self,
        _: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FunctionPage, ApiError> {
        let store = self.service()?.store.clone();
        let mut all = blocking(move || store.functions())
            .await
            .map_err(|error| self.deploy_error(&DeployError::Store(error)))?;
        all.retain(|record| after.is_none_or(|after| record.name.as_str() > after));
        let more = all.len() > limit;
        all.truncate(limit);
        Ok(FunctionPage { functions: all.into_iter().map(describe).collect(), more })
    }

    async fn update_code(&self, _: &Caller, request: UpdateCode) -> Result<Function, ApiError> {
        let service = self.writable()?;
        let expected = revision(request.revision_id.as_deref())?;
        let updated = if request.dry_run {
            deploy::check_code(service, request.name, expected, request.zip).await
        } else {
            deploy::update_code(service, request.name, expected, request.zip).await
        };
        updated.map(describe).map_err(|error| self.deploy_error(&error))
    }

    async fn update_configuration(
        &self,
        _: &Caller,
        request: UpdateConfiguration,
    ) -> Result<Function, ApiError> {
        let service = self.writable()?;
        let expected = revision(request.revision_id.as_deref())?;
        let name = request.name.clone();
        let change = move |config: &mut FunctionConfig| {
            replace(&mut config.runtime, request.runtime);
            replace(&mut config.handler, request.handler);
            replace(&mut config.role, request.role);
            replace(&mut config.description, request.description);
            replace(&mut config.timeout_s, request.timeout_s);
            replace(&mut config.memory_mb, request.memory_mb);
            replace(&mut config.storage_mb, request.storage_mb);
            replace(&mut config.environment, request.environment);
        };
        let updated = deploy::update_config(service, name, expected, change).await;
        updated.map(describe).map_err(|error| self.deploy_error(&error))
    }

    async fn change_tags(&self, _: &Caller, name: &str, change: TagChange) -> Result<Function, ApiError> {
        let service = self.writable()?;
        let apply = |config: &mut FunctionConfig| {
            change.apply(&mut config.tags)?;
            check_tenant(service, &config.tags)
        };
        self.reconfigure(name, apply).await.map(describe)
    }

    async fn reserve(&self, _: &Caller, name: &str, concurrency: Option<u32>) -> Result<Function, ApiError> {
        let set = |config: &mut FunctionConfig| {
            config.reserved_concurrency = concurrency;
            Ok(())
        };
        self.reconfigure(name, set).await.map(describe)
    }

    async fn provision(&self, _: &Caller, name: &str, sandboxes: u32) -> Result<Provisioned, ApiError> {
        let set = |config: &mut FunctionConfig| {
            config.provisioned_concurrency = Some(sandboxes);
            config.provisioned_unix_ms = unix_ms();
            Ok(())
        };
        let record = self.reconfigure(name, set).await?;
        Ok(provisioned(self.service()?, &record, sandboxes))
    }

    async fn unprovision(&self, _: &Caller, name: &str) -> Result<(), ApiError> {
        let set = |config: &mut FunctionConfig| {
            config.provisioned_concurrency = None;
            config.provisioned_unix_ms = 0;
            Ok(())
        };
        self.reconfigure(name, set).await.map(drop)
    }

    async fn provisioned(&self, _: &Caller, name: &str) -> Result<Option<Provisioned>, ApiError> {
        let record = self.find(name).await?;
        let requested = record.config.provisioned_concurrency;
        requested.map(|requested| Ok(provisioned(self.service()?, &record, requested))).transpose()
    }

    async fn account(&self, _: &Caller) -> Result<Account, ApiError> {
        let service = self.service()?;
        let store = service.store.clone();
        let read = blocking(move || Ok((store.functions()?, store.space()?))).await;
        let (functions, space) = read.map_err(|error| self.deploy_error(&DeployError::Store(error)))?;
        // Sandboxes bound it here; how many of them there is memory for depends on whose they are.
        let concurrency = service.pool.bounds(Wishes::default().tenant()).sandboxes;
        let reserved = functions.iter().filter_map(|record| record.config.reserved_concurrency);
        Ok(Account {
            concurrency,
            unreserved_concurrency: concurrency.saturating_sub(reserved.fold(0, u32::saturating_add)),
            code_limit: space.total,
            unpacked_limit: deploy::unpacked_limit(&service.config),
            code_size: functions.iter().map(|record| record.code.image_size).sum(),
            functions: u64::try_from(functions.len()).unwrap_or(u64::MAX),
        })
    }

    async fn delete_function(&self, _: &Caller, name: &str) -> Result<(), ApiError> {
        let service = self.writable()?;
        deploy::delete(service, name.to_owned()).await.map_err(|error| self.deploy_error(&error))
    }

    async fn invoke(&self, _: &Caller, request: InvokeRequest) -> Result<InvokeReply, ApiError> {
        self.serve(request, false).await.map(reply)
    }

    async fn health(&self) -> Health {
        let mut components: Vec<Component> = self
            .problems
            .iter()
            .map(|problem| Component { name: "appliance".to_owned(), ok: false, reason: problem.clone() })
            .collect();
        if let Some(service) = &self.service {
            let facts = &service.facts.data;
            let reason = match (facts.detail.as_str(), facts.formatted, facts.checked) {
                ("", true, _) => "Formatted in this boot".to_owned(),
                ("", _, true) => "Checked in this boot, after an unclean stop".to_owned(),
                (detail, _, _) => detail.to_owned(),
            };
            components.push(Component { name: "data-disk".to_owned(), ok: facts.state == "ok", reason });
            let problem = service.networks.problem();
            let (ok, reason) = (problem.is_none(), problem.unwrap_or_default());
            components.push(Component { name: "network".to_owned(), ok, reason });
        }
        // Read again, from memory: init writes it anew when something changes.
        let (facts, _) = BootFacts::read(self.operation.boot_file());
        if !facts.boot_id.is_empty() {
            let ok = facts.clock_ok;
            let reason = match facts.clock_problem {
                none if none.is_empty() && !ok => {
                    format!("Set by {}, nobody says what time it is", facts.clock)
                }
                problem => problem,
            };
            components.push(Component { name: "clock".to_owned(), ok, reason });
            let (ok, reason) = (facts.network_problem.is_empty(), facts.network_problem);
            components.push(Component { name: "addresses".to_owned(), ok, reason });
        }
        let draining = self.draining.load(Ordering::Acquire);
        if draining {
            let reason = "The machine is shutting down".to_owned();
            components.push(Component { name: "hostd".to_owned(), ok: false, reason });
        }
        Health { serving: true, ready: !draining && self.service.is_some(), components }
    }

    async fn status(&self) -> Value {
        let mut status = json!({
            "version": self.version.version,
            "build": self.version.build,
            "uptime_s": self.started.elapsed().as_secs(),
            "unix_ms": unix_ms(),
            "problems": self.problems,
            "syslog": self.operation.syslog(),
        });
        let (Some(service), Some(fields)) = (&self.service, status.as_object_mut()) else { return status };
        let (run, staged) = (service.config.paths.run.clone(), service.config.paths.data.join("tmp"));
        let census = service::blocking(move || Census::take(&run, &staged)).await;
        let store = service.store.clone();
        let space = service::blocking(move || store.space()).await.ok();
        // Read again: init writes it anew when the address changes.
        let (facts, _) = BootFacts::read(self.operation.boot_file());
        fields.insert("boot_id".to_owned(), json!(facts.boot_id));
        fields.insert("address".to_owned(), json!(facts.address));
        fields.insert("clock".to_owned(), json!(facts.clock));
        fields.insert("network".to_owned(), service.networks.describe());
        fields.insert("census".to_owned(), json!(census));
        fields.insert("sandboxes".to_owned(), json!(service.pool.usage()));
        fields.insert(
            "data_disk".to_owned(),
            json!(space.map(|space| json!({"total_bytes": space.total, "free_bytes": space.free}))),
        );
        status
    }

    async fn configuration(&self) -> String {
        let files = self.configuration.clone();
        match tokio::task::spawn_blocking(move || files.gather()).await {
            Ok(Ok((resolved, unread))) => config::shown(&resolved, unread),
            Ok(Err(error)) => format!("# {}\n", chain(&error)),
            Err(error) => format!("# {error}\n"),
        }
    }

    async fn configure(&self, _: &Caller, text: Bytes) -> Result<usize, ApiError> {
        self.writable()?;
        let files = self.configuration.clone();
        let set = tokio::task::spawn_blocking(move || files.set(&text)).await;
        match set.map_err(|error| ApiError::Service(error.to_string()))? {
            Ok(keys) => Ok(keys),
            Err(error @ SetError::Mistakes(_)) => Err(ApiError::InvalidParameterValue(error.to_string())),
            Err(error @ SetError::Off) => Err(ApiError::AccessDenied(error.to_string())),
            Err(error) => Err(ApiError::Service(chain(&error))),
        }
    }

    async fn sandboxes(&self) -> Value {
        self.service.as_ref().map_or_else(|| json!([]), |service| json!(service.pool.sandboxes()))
    }

    async fn evict_idle(&self) -> Result<u64, ApiError> {
        let service = Arc::clone(self.service()?);
        // In a task: a caller who hangs up does not leave sandboxes half put away.
        let evicted = tokio::spawn(async move { service.pool.evict_all().await }).await;
        evicted
            .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
            .map_err(|error| ApiError::Service(format!("Eviction ended abnormally: {error}")))
    }

    async fn snapshots(&self) -> Result<Value, ApiError> {
        let store = self.service()?.store.clone();
        let all = blocking(move || Ok((store.snapshots()?, store.bases()?))).await;
        let (snapshots, bases) = all.map_err(|error| self.deploy_error(&DeployError::Store(error)))?;
        Ok(json!({ "snapshots": snapshots, "bases": bases }))
    }

    async fn evict_cache(&self, _: &Caller, function: &str) -> Result<Value, ApiError> {
        let snapshot = self.snapshot(function).await?;
        let resident = snapshots::evict_cache(&snapshot).await;
        let resident = resident.map_err(|error| ApiError::Service(chain(&error)))?;
        Ok(json!({ "resident_pages": resident }))
    }

    async fn record(&self, caller: &Caller, request: InvokeRequest) -> Result<Value, ApiError> {
        let record = self.find(&request.function).await?;
        let service = self.service()?;
        // What there is goes; the first call makes the clean snapshot, the second is recorded.
        let key = function::key(&record, &service.fingerprint(&record));
        self.evict_idle().await?;
        service.pool.forget_snapshot(&key, None);
        let made = InvokeRequest { request_id: Uuid::new_v4().to_string(), ..request.clone() };
        answered(self.serve(made, true).await?)?;
        self.evict_idle().await?;
        // So that the order of what is read shows.
        if let Ok(snapshot) = self.snapshot(&request.function).await {
            snapshots::evict_cache(&snapshot).await.map_err(|error| ApiError::Service(chain(&error)))?;
        }
        for _ in 0..RECORDING_TRIES {
            let name = request.function.clone();
            let again = InvokeRequest { request_id: Uuid::new_v4().to_string(), ..request.clone() };
            let mut served = self.serve(again, true).await?;
            let Some(recorded) = served.recorded.take() else {
                answered(served)?;
                continue;
            };
            return match recorded.await {
                Ok(_) => self.get_snapshot(caller, &name).await,
                Err(_) => {
                    Err(ApiError::Service("The call could not be recorded: the log says why".to_owned()))
                }
            };
        }
        Err(ApiError::Service("No call was recorded: the clean snapshot could not be made".to_owned()))
    }

    async fn logs(&self, _: &Caller, function: &str, limit: usize) -> Result<Vec<String>, ApiError> {
        self.find(function).await?;
        Ok(self.service()?.logs.get(function).map(|log| log.last(limit)).unwrap_or_default())
    }

    async fn crashes(&self) -> Result<Value, ApiError> {
        Ok(json!(self.operation.crashes.list().await?))
    }

    async fn crash(&self, id: &str) -> Result<Value, ApiError> {
        Ok(json!(self.operation.crashes.get(id).await?))
    }

    async fn remove_crash(&self, id: &str) -> Result<(), ApiError> {
        self.operation.crashes.remove(id).await
    }

    async fn bundle(&self) -> Result<Bundle, ApiError> {
        let functions = match &self.service {
            Some(service) => {
                let store = service.store.clone();
                blocking(move || store.functions().map(|all| json!(all))).await.unwrap_or_default()
            }
            None => Value::Null,
        };
        let documents = vec![
            ("hostd/health.json", json!(self.health().await)),
            ("hostd/status.json", self.status().await),
            ("hostd/sandboxes.json", self.sandboxes().await),
            ("hostd/snapshots.json", self.snapshots().await.unwrap_or_default()),
            ("hostd/functions.json", functions),
            ("hostd/update.json", self.update_state().await.unwrap_or_default()),
            ("config/effective.json", json!(self.configuration().await.lines().collect::<Vec<_>>())),
        ];
        let files = self.configuration.clone();
        let (parts, secrets) = blocking(move || config::for_bundle(&files)).await;
        self.operation.bundle(Told { documents, parts, secrets }).await
    }

    async fn update(&self, _: &Caller, wish: UpdateWish, upload: Upload) -> Result<Value, ApiError> {
        self.is_up()?;
        let force = if wish.force { Force::Yes } else { Force::No };
        let installed = self.operation.updates.install(force, upload.pieces).await;
        installed.map(|tried| Self::tried(tried, wish)).map_err(UpdateError::answer)
    }

    async fn update_state(&self) -> Result<Value, ApiError> {
        self.operation.updates.told().await.map_err(UpdateError::answer)
    }

    async fn roll_back(&self, _: &Caller, wish: UpdateWish) -> Result<Value, ApiError> {
        self.is_up()?;
        let back = self.operation.updates.roll_back().await;
        back.map(|tried| Self::tried(tried, wish)).map_err(UpdateError::answer)
    }

    async fn call_off_update(&self, _: &Caller) -> Result<Value, ApiError> {
        let off = self.operation.updates.call_off().await.map_err(UpdateError::answer)?;
        Ok(json!({
            "called_off": match off {
                CalledOff::Writing => "an update that is being written",
                CalledOff::Trial => "the trial at the next start",
            }
        }))
    }

    async fn shutdown(&self) -> Result<(), ApiError> {
        Self::signal_init(Signal::TERM)
    }

    async fn reboot(&self) -> Result<(), ApiError> {
        Self::signal_init(Signal::INT)
    }

    async fn reset(&self, what: Wipe, confirm: Option<&str>) -> Result<ResetReply, ApiError> {
        let what = match what {
            Wipe::Data => What::Data,
            Wipe::Factory => What::Factory,
        };
        let (facts, _) = BootFacts::read(self.operation.boot_file());
        let restart = || Self::signal_init(Signal::INT);
        self.operation.desk.reset(&facts.data.orders, what, confirm, restart).await
    }
}
