//! Functions as Lambda's clients expect to see them.

use serde_json::{Map, Value, json};

use crate::time;
use crate::types::{
    Account, Function, FunctionState, Identity, LATEST, Provisioned, ProvisionedState, UpdateState,
};

/// FunctionConfiguration; the ARN with the version when `qualified`.
pub fn configuration(function: &Function, identity: &Identity, qualified: bool) -> Value {
    let arn = identity.function_arn(&function.name);
    let arn = if qualified { format!("{arn}:{LATEST}") } else { arn };
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("FunctionName", json!(function.name));
    put("FunctionArn", json!(arn));
    put("Runtime", json!(function.runtime));
    put("Role", json!(function.role));
    put("Handler", json!(function.handler));
    put("CodeSize", json!(function.code_size));
    put("Description", json!(function.description));
    put("Timeout", json!(function.timeout_s));
    put("MemorySize", json!(function.memory_mb));
    put("LastModified", json!(time::lambda(function.last_modified_unix_ms)));
    put("CodeSha256", json!(function.code_sha256));
    put("Version", json!(LATEST));
    // Lambda leaves an empty environment out as well.
    if !function.environment.is_empty() {
        put("Environment", json!({ "Variables": function.environment }));
    }
    put("TracingConfig", json!({ "Mode": "PassThrough" }));
    put("RevisionId", json!(function.revision_id));
    put("PackageType", json!("Zip"));
    put("Architectures", json!(function.architectures));
    put("EphemeralStorage", json!({ "Size": function.storage_mb }));
    // What Lambda calls SnapStart is for published versions; snapshots here need no switch.
    put("SnapStart", json!({ "ApplyOn": "None", "OptimizationStatus": "Off" }));
    put(
        "LoggingConfig",
        json!({ "LogFormat": "Text", "LogGroup": format!("/aws/lambda/{}", function.name) }),
    );
    match &function.state {
        FunctionState::Active => put("State", json!("Active")),
        FunctionState::Pending => {
            put("State", json!("Pending"));
            put("StateReason", json!("The function is being created."));
            put("StateReasonCode", json!("Creating"));
        }
        FunctionState::Failed(reason) => {
            put("State", json!("Failed"));
            put("StateReason", json!(reason));
            put("StateReasonCode", json!("InternalError"));
        }
    }
    match &function.last_update {
        UpdateState::Successful => put("LastUpdateStatus", json!("Successful")),
        UpdateState::InProgress => put("LastUpdateStatus", json!("InProgress")),
        UpdateState::Failed(reason) => {
            put("LastUpdateStatus", json!("Failed"));
            put("LastUpdateStatusReason", json!(reason));
            put("LastUpdateStatusReasonCode", json!("InternalError"));
        }
    }
    Value::Object(fields)
}

/// What GetFunction answers. There is no `Code.Location`: the uploaded archive is not kept.
pub fn function(function: &Function, identity: &Identity, qualified: bool) -> Value {
    let mut shown = json!({
        "Configuration": configuration(function, identity, qualified),
        "Code": { "RepositoryType": "Mote" },
        "Tags": function.tags,
    });
    if let (Some(_), Some(fields)) = (function.reserved_concurrency, shown.as_object_mut()) {
        fields.insert("Concurrency".to_owned(), concurrency(function));
    }
    shown
}

/// What is reserved for a function; an empty object if nothing is.
pub fn concurrency(function: &Function) -> Value {
    match function.reserved_concurrency {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    }
}

/// What is always to be there of a function.
pub fn provisioned(provisioned: &Provisioned) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("RequestedProvisionedConcurrentExecutions", json!(provisioned.requested));
    put("AllocatedProvisionedConcurrentExecutions", json!(provisioned.allocated));
    put("AvailableProvisionedConcurrentExecutions", json!(provisioned.available));
    put("LastModified", json!(time::lambda(provisioned.last_modified_unix_ms)));
    match &provisioned.state {
        ProvisionedState::Ready => put("Status", json!("READY")),
        ProvisionedState::InProgress => put("Status", json!("IN_PROGRESS")),
        ProvisionedState::Failed(reason) => {
            put("Status", json!("FAILED"));
            put("StatusReason", json!(reason));
        }
    }
    fields
}

/// What GetAccountSettings answers; `zipped`: largest archive, bytes.
pub fn account(account: &Account, zipped: usize) -> Value {
    json!({
        "AccountLimit": {
            "TotalCodeSize": account.code_limit,
            "CodeSizeUnzipped": account.unpacked_limit,
            "CodeSizeZipped": zipped,
            "ConcurrentExecutions": account.concurrency,
            "UnreservedConcurrentExecutions": account.unreserved_concurrency,
        },
        "AccountUsage": { "TotalCodeSize": account.code_size, "FunctionCount": account.functions },
    })
}
