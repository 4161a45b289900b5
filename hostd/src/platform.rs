//! The appliance behind the front door: translates between the API's words and the service's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mote_api::{
    ApiError, Caller, Component, CreateFunction, Function, FunctionPage, FunctionState, Health, Identity,
    InvokeReply, InvokeRequest, LATEST, Limits, Platform, StartPreference, TagChange, UpdateCode,
    UpdateConfiguration, UpdateState, Wishes,
};
use mote_store::{FunctionConfig, FunctionRecord, StoreError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::boot::BootFacts;
use crate::census::Census;
use crate::deploy::{self, DeployError};
use crate::network::JoinError;
use crate::pool::{Refusal, Snapshot, Want};
use crate::sandbox::{Paging, StartError};
use crate::serve::{self, Call, ServeError, Served};
use crate::service::{Service, blocking};
use crate::text::chain;
use crate::{Version, function, service, snapshots};

/// How often a call is made to be recorded: the clean snapshot is made durable behind the call that made it.
const RECORDING_TRIES: usize = 3;

/// How often a change of tags that another change overtook is made again.
const TAG_ATTEMPTS: usize = 8;

/// When a caller who found no room should try again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The machine as the front door sees it. Without a data disk there is no service, but it still answers.
#[derive(Debug)]
pub struct Appliance {
    service: Option<Arc<Service>>,
    problems: Vec<String>,
    version: Version,
    boot_file: PathBuf,
    started: Instant,
    draining: AtomicBool,
}

impl Appliance {
    /// An appliance over `service`; `problems` are told at `/healthz`.
    pub fn new(
        service: Option<Arc<Service>>,
        problems: Vec<String>,
        version: Version,
        boot_file: PathBuf,
    ) -> Self {
        let draining = AtomicBool::new(false);
        Self { service, problems, version, boot_file, started: Instant::now(), draining }
    }

    /// New calls are refused from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn service(&self) -> Result<&Arc<Service>, ApiError> {
        if self.draining.load(Ordering::Acquire) {
            let message = "The machine is shutting down: try again when it is up".to_owned();
            return Err(ApiError::Unavailable { message, retry_after: RETRY_AFTER });
        }
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
            DeployError::Package(_) | DeployError::Handler(_) | DeployError::Runtime { .. } => {
                ApiError::InvalidParameterValue(message)
            }
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

    async fn serve(&self, request: InvokeRequest, record: bool) -> Result<Served, ApiError> {
        let function = self.find(&request.function).await?;
        let service = Arc::clone(self.service()?);
        let name = request.function.clone();
        // In a task: the call ends in order even if its caller hangs up.
        match tokio::spawn(serve::serve(service, call(function, request, record))).await {
            Ok(Ok(served)) => Ok(served),
            Ok(Err(error)) => {
                tracing::warn!(function = %name, error = %chain(&error), "Call failed");
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

fn revision(text: Option<&str>) -> Result<Option<Uuid>, ApiError> {
    text.map(|text| {
        text.parse().map_err(|_| {
            ApiError::PreconditionFailed(format!("RevisionId '{text}' is not the function's; read it again"))
        })
    })
    .transpose()
}

fn describe(record: FunctionRecord) -> Function {
    Function {
        name: record.name,
        runtime: record.config.runtime,
        handler: record.config.handler,
        role: record.config.role,
        description: record.config.description,
        timeout_s: record.config.timeout_s,
        memory_mb: record.config.memory_mb,
        storage_mb: record.config.storage_mb,
        environment: record.config.environment,
        architectures: record.config.architectures,
        tags: record.config.tags,
        code_size: record.code.zip_size,
        code_sha256: record.code.sha256_base64,
        last_modified_unix_ms: record.last_modified_unix_ms,
        revision_id: record.revision_id.to_string(),
        state: FunctionState::Active,
        last_update: UpdateState::Successful,
    }
}

fn call(function: FunctionRecord, request: InvokeRequest, record: bool) -> Call {
    Call {
        function,
        event: request.payload,
        content_type: request.content_type,
        client_context: request.client_context,
        arn: request.arn,
        request_id: request.request_id,
        want: match request.start {
            StartPreference::Auto | StartPreference::Warm => Want::Auto,
            StartPreference::Restore => Want::Restore,
            StartPreference::Cold => Want::Cold,
        },
        mode: request.restore_mode,
        record,
        recording: None,
        unlayered: false,
    }
}

fn paging(paging: Paging) -> Vec<(&'static str, u64)> {
    vec![("minor", paging.minor_faults), ("major", paging.major_faults)]
}

fn reply(served: Served) -> InvokeReply {
    InvokeReply {
        payload: served.payload.into(),
        content_type: served.content_type,
        function_error: served.failure,
        executed_version: LATEST.to_owned(),
        log_tail: Some(served.tail.into()),
        served_by: served.by,
        phases: served.phases.into_laps(),
        billed: served.billed,
        paging: served.paging.map(paging).unwrap_or_default(),
    }
}

/// The function's own failure as a refusal: there is nothing to record then.
fn answered(served: Served) -> Result<Served, ApiError> {
    if served.failure.is_none() {
        return Ok(served);
    }
    let payload = String::from_utf8_lossy(&served.payload).into_owned();
    Err(ApiError::InvalidParameterValue(format!("The function fails with this event: {payload}")))
}

/// A function is of a tenant there is.
fn check_tenant(service: &Service, tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let wishes = Wishes::of(tags).unwrap_or_default();
    service
        .networks
        .check(wishes.tenant())
        .map_err(|error| ApiError::InvalidParameterValue(error.to_string()))
}

fn serve_error(error: &ServeError) -> ApiError {
    let message = chain(error);
    match error {
        ServeError::Refused(Refusal::Busy(_)) => ApiError::no_capacity(message, RETRY_AFTER),
        ServeError::Refused(Refusal::TooBig { .. }) => ApiError::InvalidParameterValue(message),
        ServeError::Network(JoinError::Quota { .. }) => ApiError::no_capacity(message, RETRY_AFTER),
        ServeError::Network(JoinError::Full { .. }) => {
            ApiError::Unavailable { message, retry_after: RETRY_AFTER }
        }
        ServeError::Network(JoinError::Unknown { .. }) => ApiError::InvalidParameterValue(message),
        ServeError::Deleted => ApiError::ResourceNotFound(message),
        ServeError::Start(StartError::BootFailed { .. } | StartError::BootTimeout { .. }) => {
            ApiError::InvalidRuntime(message)
        }
        ServeError::Refused(_)
        | ServeError::Start(_)
        | ServeError::Base(_)
        | ServeError::Broken(_)
        | ServeError::Unsettled => ApiError::Service(message),
    }
}

impl Platform for Appliance {
    fn limits(&self) -> Limits {
        let Some(service) = &self.service else { return Limits::default() };
        let (_, _, _, capacity_mb) = service.pool.usage();
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
        for _ in 0..TAG_ATTEMPTS {
            let before = self.find(name).await?;
            let mut tags = before.config.tags;
            change.apply(&mut tags)?;
            check_tenant(service, &tags)?;
            let set = move |config: &mut FunctionConfig| config.tags = tags;
            match deploy::update_config(service, name.to_owned(), Some(before.revision_id), set).await {
                Ok(updated) => return Ok(describe(updated)),
                // Changed meanwhile: to be made to what it is now.
                Err(DeployError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(self.deploy_error(&error)),
            }
        }
        Err(ApiError::update_in_progress(&Identity::default().function_arn(name)))
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
            "problems": self.problems,
        });
        let (Some(service), Some(fields)) = (&self.service, status.as_object_mut()) else { return status };
        let (run, staged) = (service.config.paths.run.clone(), service.config.paths.data.join("tmp"));
        let census = service::blocking(move || Census::take(&run, &staged)).await;
        let (alive, idle, used_mb, capacity_mb) = service.pool.usage();
        let store = service.store.clone();
        let space = service::blocking(move || store.space()).await.ok();
        // Read again: init writes it anew when the address changes.
        let (facts, _) = BootFacts::read(&self.boot_file);
        fields.insert("boot_id".to_owned(), json!(facts.boot_id));
        fields.insert("address".to_owned(), json!(facts.address));
        fields.insert("clock".to_owned(), json!(facts.clock));
        fields.insert("network".to_owned(), service.networks.describe());
        fields.insert("census".to_owned(), json!(census));
        fields.insert(
            "sandboxes".to_owned(),
            json!({"alive": alive, "idle": idle, "memory_mb": used_mb, "capacity_mb": capacity_mb}),
        );
        fields.insert(
            "data_disk".to_owned(),
            json!(space.map(|space| json!({"total_bytes": space.total, "free_bytes": space.free}))),
        );
        status
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

    async fn shutdown(&self) -> Result<(), ApiError> {
        Self::signal_init(Signal::TERM)
    }

    async fn reboot(&self) -> Result<(), ApiError> {
        Self::signal_init(Signal::INT)
    }
}

fn replace<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
