//! Functions in a map. Calls echo their event; some events ask for something else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mote_api::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A change takes this long to be in effect, so that waiters have something to wait for.
const SETTLE: Duration = Duration::from_millis(1500);

/// All archives together, bytes.
const QUOTA: u64 = 60 * 1024 * 1024;

/// Calls at once.
const CONCURRENCY: usize = 4;

pub struct Memory {
    functions: Mutex<BTreeMap<String, Stored>>,
    provisioned: Mutex<BTreeMap<String, (u32, u64, Instant)>>,
    logs: Mutex<VecDeque<(String, String)>>,
    callers: Mutex<Vec<Caller>>,
    slots: Semaphore,
    idle: Mutex<u64>,
    updated: Mutex<Option<usize>>,
    pub health: Mutex<Health>,
    pub crashes: Mutex<BTreeMap<String, Value>>,
}

struct Stored {
    function: Function,
    settled: Instant,
    created: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            functions: Mutex::default(),
            provisioned: Mutex::default(),
            logs: Mutex::default(),
            callers: Mutex::default(),
            slots: Semaphore::new(CONCURRENCY),
            idle: Mutex::default(),
            updated: Mutex::default(),
            crashes: Mutex::default(),
            health: Mutex::new(Health { serving: true, ready: true, components: Vec::new() }),
        }
    }
}

impl Memory {
    /// Everyone who made, changed or called a function, in order.
    pub fn callers(&self) -> Vec<Caller> {
        self.callers.lock().unwrap().clone()
    }

    fn note(&self, caller: &Caller) {
        self.callers.lock().unwrap().push(caller.clone());
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::function_not_found(&self.identity().function_arn(name))
    }

    fn check_zip(&self, functions: &BTreeMap<String, Stored>, zip: &[u8]) -> Result<(), ApiError> {
        if !zip.starts_with(b"PK") {
            return Err(ApiError::InvalidParameterValue("The archive is no zip".to_owned()));
        }
        let used: u64 = functions.values().map(|stored| stored.function.code_size).sum();
        if used + zip.len() as u64 > QUOTA {
            return Err(ApiError::CodeStorageExceeded(format!(
                "Code takes {used} of {QUOTA} bytes: delete functions"
            )));
        }
        Ok(())
    }

    fn change(
        &self,
        name: &str,
        revision_id: Option<&str>,
        change: impl FnOnce(&BTreeMap<String, Stored>, &mut Function) -> Result<bool, ApiError>,
    ) -> Result<Function, ApiError> {
        let mut functions = self.functions.lock().unwrap();
        let stored = functions.get(name).ok_or_else(|| self.not_found(name))?;
        if revision_id.is_some_and(|wanted| wanted != stored.function.revision_id) {
            return Err(ApiError::PreconditionFailed(
                "The RevisionId is another: read the function again".to_owned(),
            ));
        }
        if stored.settled > Instant::now() {
            return Err(ApiError::update_in_progress(&self.identity().function_arn(name)));
        }
        let mut function = stored.function.clone();
        if change(&functions, &mut function)? {
            function.revision_id = Uuid::new_v4().to_string();
            function.last_modified_unix_ms = unix_ms();
            let settled = Instant::now() + SETTLE;
            functions.insert(name.to_owned(), Stored { function: function.clone(), settled, created: false });
            function.last_update = UpdateState::InProgress;
        }
        Ok(function)
    }
}

impl Stored {
    fn shown(&self) -> Function {
        let mut function = self.function.clone();
        if self.settled > Instant::now() {
            if self.created {
                function.state = FunctionState::Pending;
            }
            function.last_update = UpdateState::InProgress;
        }
        function
    }
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn sha256(zip: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(zip))
}

impl Platform for Memory {
    fn limits(&self) -> Limits {
        Limits { max_memory_mb: 2048, ..Limits::default() }
    }

    async fn create_function(&self, caller: &Caller, request: CreateFunction) -> Result<Function, ApiError> {
        self.note(caller);
        let mut functions = self.functions.lock().unwrap();
        if functions.contains_key(&request.name) {
            return Err(ApiError::function_exists(&request.name));
        }
        self.check_zip(&functions, &request.zip)?;
        let function = Function {
            name: request.name,
            runtime: request.runtime,
            handler: request.handler,
            role: request.role,
            description: request.description,
            timeout_s: request.timeout_s,
            memory_mb: request.memory_mb,
            storage_mb: request.storage_mb,
            environment: request.environment,
            architectures: request.architectures,
            tags: request.tags,
            reserved_concurrency: None,
            code_size: request.zip.len() as u64,
            code_sha256: sha256(&request.zip),
            last_modified_unix_ms: unix_ms(),
            revision_id: Uuid::new_v4().to_string(),
            state: FunctionState::Active,
            last_update: UpdateState::Successful,
        };
        let stored = Stored { function, settled: Instant::now() + SETTLE, created: true };
        let shown = stored.shown();
        functions.insert(shown.name.clone(), stored);
        Ok(shown)
    }

    async fn get_function(&self, _: &Caller, name: &str) -> Result<Function, ApiError> {
        self.functions.lock().unwrap().get(name).map(Stored::shown).ok_or_else(|| self.not_found(name))
    }

    async fn list_functions(
        &self,
        _: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FunctionPage, ApiError> {
        let functions = self.functions.lock().unwrap();
        let mut rest = functions
            .values()
            .filter(|stored| after.is_none_or(|after| stored.function.name.as_str() > after));
        let page = rest.by_ref().take(limit).map(Stored::shown).collect();
        Ok(FunctionPage { functions: page, more: rest.next().is_some() })
    }

    async fn update_code(&self, caller: &Caller, request: UpdateCode) -> Result<Function, ApiError> {
        self.note(caller);
        self.change(&request.name, request.revision_id.as_deref(), |functions, function| {
            self.check_zip(functions, &request.zip)?;
            function.code_size = request.zip.len() as u64;
            function.code_sha256 = sha256(&request.zip);
            Ok(!request.dry_run)
        })
    }

    async fn update_configuration(
        &self,
        caller: &Caller,
        request: UpdateConfiguration,
    ) -> Result<Function, ApiError> {
        self.note(caller);
        self.change(&request.name, request.revision_id.as_deref(), |_, function| {
            fn set<T>(field: &mut T, value: Option<T>) {
                if let Some(value) = value {
                    *field = value;
                }
            }
            set(&mut function.runtime, request.runtime);
            set(&mut function.handler, request.handler);
            set(&mut function.role, request.role);
            set(&mut function.description, request.description);
            set(&mut function.timeout_s, request.timeout_s);
            set(&mut function.memory_mb, request.memory_mb);
            set(&mut function.storage_mb, request.storage_mb);
            set(&mut function.environment, request.environment);
            Ok(true)
        })
    }

    async fn change_tags(
        &self,
        caller: &Caller,
        name: &str,
        wanted: TagChange,
    ) -> Result<Function, ApiError> {
        self.note(caller);
        self.change(name, None, |_, function| {
            wanted.apply(&mut function.tags)?;
            Ok(true)
        })
    }

    async fn reserve(
        &self,
        caller: &Caller,
        name: &str,
        concurrency: Option<u32>,
    ) -> Result<Function, ApiError> {
        self.note(caller);
        let mut functions = self.functions.lock().unwrap();
        let stored = functions.get_mut(name).ok_or_else(|| self.not_found(name))?;
        stored.function.reserved_concurrency = concurrency;
        Ok(stored.shown())
    }

    /// They take [`SETTLE`] to come up; more than [`CONCURRENCY`] never do.
    async fn provision(&self, caller: &Caller, name: &str, sandboxes: u32) -> Result<Provisioned, ApiError> {
        let function = self.get_function(caller, name).await?;
        if let Some(reserved) = function.reserved_concurrency.filter(|reserved| *reserved < sandboxes) {
            return Err(ApiError::InvalidParameterValue(format!("Only {reserved} are reserved")));
        }
        let entry = (sandboxes, unix_ms(), Instant::now() + SETTLE);
        self.provisioned.lock().unwrap().insert(name.to_owned(), entry);
        self.provisioned(caller, name).await.map(|provisioned| provisioned.unwrap())
    }

    async fn unprovision(&self, caller: &Caller, name: &str) -> Result<(), ApiError> {
        self.get_function(caller, name).await?;
        self.provisioned.lock().unwrap().remove(name);
        Ok(())
    }

    async fn provisioned(&self, caller: &Caller, name: &str) -> Result<Option<Provisioned>, ApiError> {
        self.get_function(caller, name).await?;
        let found = self.provisioned.lock().unwrap().get(name).copied();
        Ok(found.map(|(requested, last_modified_unix_ms, settled)| {
            let up = settled <= Instant::now();
            let most = requested.min(u32::try_from(CONCURRENCY).unwrap());
            let state = match (up, requested > most) {
                (true, false) => ProvisionedState::Ready,
                (true, true) => ProvisionedState::Failed("They crash".to_owned()),
                _ => ProvisionedState::InProgress,
            };
            let available = if up { most } else { 0 };
            Provisioned { requested, allocated: most, available, state, last_modified_unix_ms }
        }))
    }

    async fn account(&self, _: &Caller) -> Result<Account, ApiError> {
        let functions = self.functions.lock().unwrap();
        let reserved: u32 =
            functions.values().filter_map(|stored| stored.function.reserved_concurrency).sum();
        let concurrency = u32::try_from(CONCURRENCY).unwrap();
        Ok(Account {
            concurrency,
            unreserved_concurrency: concurrency.saturating_sub(reserved),
            code_limit: QUOTA,
            unpacked_limit: QUOTA,
            code_size: functions.values().map(|stored| stored.function.code_size).sum(),
            functions: functions.len() as u64,
        })
    }

    async fn delete_function(&self, _: &Caller, name: &str) -> Result<(), ApiError> {
        let removed = self.functions.lock().unwrap().remove(name);
        removed.map(|_| ()).ok_or_else(|| self.not_found(name))
    }

    /// The event comes back, unless it is an object with one of: `sleep_ms` (first that), `fail` (an error with that
    /// message), `slow` (a timeout), `reply` (that comes back), `describe` (the request comes back), `print` (in the
    /// log). The fields may stand in the `body` of a plain HTTP call as well.
    async fn invoke(&self, caller: &Caller, request: InvokeRequest) -> Result<InvokeReply, ApiError> {
        self.note(caller);
        let function = self.get_function(caller, &request.function).await?;
        let slot = self.slots.try_acquire();
        let _slot =
            slot.map_err(|_| ApiError::no_capacity("All sandboxes are busy", Duration::from_millis(1500)))?;
        let event: Value = serde_json::from_slice(&request.payload).unwrap();
        let from_body = event["body"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok());
        let wish = from_body.as_ref().unwrap_or(&event);
        if let Some(ms) = wish["sleep_ms"].as_u64() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let (payload, function_error) = if let Some(message) = wish["fail"].as_str() {
            (
                json!({ "errorType": "ValueError", "errorMessage": message, "stackTrace": [] }),
                Some(FunctionError::Unhandled),
            )
        } else if wish.get("slow").is_some() {
            let text = format!("Task timed out after {:.2} seconds", f64::from(function.timeout_s));
            (json!({ "errorType": "Sandbox.Timedout", "errorMessage": text }), Some(FunctionError::TimedOut))
        } else if let Some(reply) = wish.get("reply") {
            (reply.clone(), None)
        } else if wish.get("describe").is_some() {
            let seen = json!({
                "arn": request.arn, "request_id": request.request_id, "qualifier": request.qualifier,
                "client_context": request.client_context, "content_type": request.content_type,
                "start": format!("{:?}", request.start), "restore_mode": format!("{:?}", request.restore_mode), "caller": caller.access_key_id, "region": caller.region,
            });
            (seen, None)
        } else {
            (event.clone(), None)
        };
        let id = &request.request_id;
        let printed = wish["print"].as_str().unwrap_or_default();
        let log = format!("START RequestId: {id} Version: $LATEST\n{printed}\nEND RequestId: {id}\n");
        self.logs.lock().unwrap().extend(log.lines().map(|line| (function.name.clone(), line.to_owned())));
        *self.idle.lock().unwrap() += 1;
        Ok(InvokeReply {
            payload: payload.to_string().into(),
            content_type: None,
            function_error,
            executed_version: LATEST.to_owned(),
            log_tail: Some(log.into()),
            served_by: match request.start {
                StartPreference::Cold => ServedBy::Cold,
                StartPreference::Restore => ServedBy::Restore,
                StartPreference::Auto | StartPreference::Warm => ServedBy::Warm,
            },
            phases: vec![("wait", Duration::from_micros(1500)), ("invoke", Duration::from_millis(2))],
            billed: Some(Duration::from_millis(2)),
            paging: Vec::new(),
        })
    }

    async fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    async fn status(&self) -> Value {
        json!({ "version": "test", "functions": self.functions.lock().unwrap().len() })
    }

    async fn configuration(&self) -> String {
        "[machine]\nhostname = \"mote\"\n".to_owned()
    }

    async fn configure(&self, _: &Caller, text: Bytes) -> Result<usize, ApiError> {
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.lines().count()),
            Err(_) => Err(ApiError::InvalidParameterValue("mote.toml:1:1: Not UTF-8".to_owned())),
        }
    }

    async fn sandboxes(&self) -> Value {
        json!(
            (0..*self.idle.lock().unwrap())
                .map(|id| json!({ "id": id, "state": "idle" }))
                .collect::<Vec<_>>()
        )
    }

    async fn evict_idle(&self) -> Result<u64, ApiError> {
        Ok(std::mem::take(&mut *self.idle.lock().unwrap()))
    }

    async fn snapshots(&self) -> Result<Value, ApiError> {
        Ok(json!([]))
    }

    async fn evict_cache(&self, caller: &Caller, function: &str) -> Result<Value, ApiError> {
        self.get_function(caller, function).await?;
        Ok(json!({ "resident_pages": 0 }))
    }

    async fn record(&self, caller: &Caller, request: InvokeRequest) -> Result<Value, ApiError> {
        self.get_function(caller, &request.function).await?;
        Ok(json!({ "event_bytes": request.payload.len() }))
    }

    async fn logs(&self, caller: &Caller, function: &str, limit: usize) -> Result<Vec<String>, ApiError> {
        self.get_function(caller, function).await?;
        let logs = self.logs.lock().unwrap();
        let mut lines: Vec<String> = logs
            .iter()
            .rev()
            .filter(|(name, _)| name == function)
            .take(limit)
            .map(|(_, line)| line.clone())
            .collect();
        lines.reverse();
        Ok(lines)
    }

    async fn crashes(&self) -> Result<Value, ApiError> {
        Ok(json!(self.crashes.lock().unwrap().keys().collect::<Vec<_>>()))
    }

    async fn crash(&self, id: &str) -> Result<Value, ApiError> {
        let crash = self.crashes.lock().unwrap().get(id).cloned();
        crash.ok_or_else(|| ApiError::ResourceNotFound(format!("No crash {id}")))
    }

    async fn remove_crash(&self, id: &str) -> Result<(), ApiError> {
        let removed = self.crashes.lock().unwrap().remove(id);
        removed.map(drop).ok_or_else(|| ApiError::ResourceNotFound(format!("No crash {id}")))
    }

    async fn bundle(&self) -> Result<Bundle, ApiError> {
        let (pieces, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..3 {
                let _ = pieces.send(Ok("piece".into())).await;
            }
        });
        Ok(Bundle { name: "bundle.tar".to_owned(), pieces: receiver })
    }

    /// One that begins with "bad" is refused at once.
    async fn update(&self, caller: &Caller, wish: UpdateWish, mut upload: Upload) -> Result<Value, ApiError> {
        self.note(caller);
        let mut bytes = Vec::new();
        while let Some(piece) = upload.pieces.recv().await {
            bytes.extend_from_slice(&piece?);
            if bytes.starts_with(b"bad") {
                return Err(ApiError::AccessDenied("Signed by nobody".to_owned()));
            }
        }
        *self.updated.lock().unwrap() = Some(bytes.len());
        Ok(json!({ "bytes": bytes.len(), "reboot": wish.reboot, "force": wish.force }))
    }

    async fn update_state(&self) -> Result<Value, ApiError> {
        Ok(json!({ "bytes": *self.updated.lock().unwrap() }))
    }

    async fn roll_back(&self, caller: &Caller, wish: UpdateWish) -> Result<Value, ApiError> {
        self.note(caller);
        Ok(json!({ "reboot": wish.reboot }))
    }

    async fn call_off_update(&self, caller: &Caller) -> Result<Value, ApiError> {
        self.note(caller);
        match self.updated.lock().unwrap().take() {
            Some(_) => Ok(json!({})),
            None => Err(ApiError::ResourceConflict("There is nothing to call off".to_owned())),
        }
    }

    async fn shutdown(&self) -> Result<(), ApiError> {
        self.health.lock().unwrap().ready = false;
        Ok(())
    }

    async fn reboot(&self) -> Result<(), ApiError> {
        Err(ApiError::Unavailable {
            message: "No init here".to_owned(),
            retry_after: Duration::from_secs(60),
        })
    }

    async fn reset(&self, _: Wipe, confirm: Option<&str>) -> Result<ResetReply, ApiError> {
        match confirm {
            None => Ok(ResetReply::Confirm { token: "sure".to_owned(), valid: Duration::from_secs(60) }),
            Some("sure") => Ok(ResetReply::Begun),
            Some(other) => Err(ApiError::PreconditionFailed(format!("{other} confirms nothing"))),
        }
    }
}
