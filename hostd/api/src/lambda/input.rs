//! From request documents to checked requests: which fields there are and what they may hold.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::document::{Document, Table, Use};
use super::{environment, tags};
use crate::error::ApiError;
use crate::name::Reference;
use crate::types::{CreateFunction, Limits, UpdateCode, UpdateConfiguration};

/// Largest body of a request that brings code, bytes: as on Lambda, 50 MiB in base64 and a little.
pub const DOCUMENT_LIMIT: usize = 70_167_211;

/// Largest uploaded archive, bytes.
pub const ZIP_LIMIT: usize = 50 * 1024 * 1024;

const TIMEOUT_S: (u32, u32) = (1, 900);
const MEMORY_MB: (u32, u32) = (128, 10_240);
const SMALLEST_STORAGE_MB: u32 = 64;
const DEFAULT_TIMEOUT_S: u32 = 3;
const DEFAULT_MEMORY_MB: u32 = 128;
const HANDLER_LIMIT: usize = 128;
const DESCRIPTION_LIMIT: usize = 256;
const ROLE_LIMIT: usize = 2048;
const REVISION_LIMIT: usize = 128;
/// Largest number of the clients' type; the platform has limits of its own.
const MOST_CONCURRENCY: u32 = 0x7fff_ffff;
const ARCHITECTURE: &str = "x86_64";

/// Clients disagree about padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const NO_VPC: Use = Use::Refused("there are no VPCs; leave it out");
const NO_LAYERS: Use = Use::Refused("there are no layers; put their content into the zip");
const NO_KMS: Use = Use::Refused("there are no customer keys; leave it out");
const NO_IMAGE: Use = Use::Refused("there are no container images; upload a zip");
const NO_S3: Use = Use::Refused("code is not fetched from S3; upload the zip in 'ZipFile'");
const NO_DEAD_LETTERS: Use = Use::Refused("there are no asynchronous calls yet; leave it out");
const NO_FILE_SYSTEMS: Use = Use::Refused("there are no shared file systems; leave it out");
const NO_SIGNING: Use = Use::Refused("code signatures are not checked; leave it out");
const NOT_HERE: Use = Use::Refused("leave it out");

const CREATE: &Table = &[
    ("FunctionName", Use::Read),
    ("Runtime", Use::Read),
    ("Role", Use::Read),
    ("Handler", Use::Read),
    ("Code", Use::Read),
    ("Description", Use::Read),
    ("Timeout", Use::Read),
    ("MemorySize", Use::Read),
    ("Publish", Use::Read),
    ("PackageType", Use::Read),
    ("Environment", Use::Read),
    ("Architectures", Use::Read),
    ("EphemeralStorage", Use::Read),
    ("LoggingConfig", Use::Read),
    ("Tags", Use::Read),
    ("TracingConfig", Use::Ignored),
    ("SnapStart", Use::Ignored),
    ("VpcConfig", NO_VPC),
    ("Layers", NO_LAYERS),
    ("KMSKeyArn", NO_KMS),
    ("ImageConfig", NO_IMAGE),
    ("DeadLetterConfig", NO_DEAD_LETTERS),
    ("FileSystemConfigs", NO_FILE_SYSTEMS),
    ("CodeSigningConfigArn", NO_SIGNING),
    ("PublishTo", NOT_HERE),
    ("TenancyConfig", NOT_HERE),
    ("CapacityProviderConfig", NOT_HERE),
    ("DurableConfig", NOT_HERE),
    ("RuntimeConfig", NOT_HERE),
    ("AcceleratorConfig", NOT_HERE),
];

const CODE: &Table = &[
    ("ZipFile", Use::Read),
    ("S3Bucket", NO_S3),
    ("S3Key", NO_S3),
    ("S3ObjectVersion", NO_S3),
    ("S3ObjectStorageMode", NO_S3),
    ("ImageUri", NO_IMAGE),
    ("SourceKMSKeyArn", NO_KMS),
];

const UPDATE_CODE: &Table = &[
    ("ZipFile", Use::Read),
    ("Architectures", Use::Read),
    ("Publish", Use::Read),
    ("DryRun", Use::Read),
    ("RevisionId", Use::Read),
    ("S3Bucket", NO_S3),
    ("S3Key", NO_S3),
    ("S3ObjectVersion", NO_S3),
    ("S3ObjectStorageMode", NO_S3),
    ("ImageUri", NO_IMAGE),
    ("SourceKMSKeyArn", NO_KMS),
    ("PublishTo", NOT_HERE),
];

const UPDATE_CONFIGURATION: &Table = &[
    ("Role", Use::Read),
    ("Handler", Use::Read),
    ("Description", Use::Read),
    ("Timeout", Use::Read),
    ("MemorySize", Use::Read),
    ("Environment", Use::Read),
    ("Runtime", Use::Read),
    ("RevisionId", Use::Read),
    ("EphemeralStorage", Use::Read),
    ("LoggingConfig", Use::Read),
    ("TracingConfig", Use::Ignored),
    ("SnapStart", Use::Ignored),
    ("VpcConfig", NO_VPC),
    ("Layers", NO_LAYERS),
    ("KMSKeyArn", NO_KMS),
    ("ImageConfig", NO_IMAGE),
    ("DeadLetterConfig", NO_DEAD_LETTERS),
    ("FileSystemConfigs", NO_FILE_SYSTEMS),
    ("CapacityProviderConfig", NOT_HERE),
    ("DurableConfig", NOT_HERE),
    ("RuntimeConfig", NOT_HERE),
    ("AcceleratorConfig", NOT_HERE),
];

const TAGS: &Table = &[("Tags", Use::Read)];

const STORAGE: &Table = &[("Size", Use::Read)];

const LOGGING: &Table = &[
    ("LogFormat", Use::Read),
    ("LogGroup", Use::Ignored),
    ("ApplicationLogLevel", NOT_HERE),
    ("SystemLogLevel", NOT_HERE),
];

/// Reads a CreateFunction document.
pub fn create(body: &[u8], limits: &Limits) -> Result<CreateFunction, ApiError> {
    let document = Document::parse(body, CREATE)?;
    let name = required(document.get::<String>("FunctionName")?, "FunctionName")?;
    let reference = Reference::parse(&name)?;
    if reference.qualifier.is_some() {
        return Err(invalid(format!("Value '{name}' at 'FunctionName' has a qualifier: leave it out")));
    }
    if let Some(kind) = document.get::<String>("PackageType")?.filter(|kind| kind != "Zip") {
        return Err(invalid(format!("Value '{kind}' at 'PackageType' is not supported: give Zip")));
    }
    let settings = Settings::read(&document, limits)?;
    let code = document.object("Code", "Code.", CODE)?;
    let code =
        code.ok_or_else(|| invalid("Field 'Code' is missing: give it with the zip in 'ZipFile'".to_owned()))?;
    Ok(CreateFunction {
        name: reference.name,
        runtime: required(settings.runtime, "Runtime")?,
        handler: required(settings.handler, "Handler")?,
        role: settings.role.unwrap_or_default(),
        description: settings.description.unwrap_or_default(),
        timeout_s: settings.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S),
        memory_mb: settings.memory_mb.unwrap_or(DEFAULT_MEMORY_MB),
        storage_mb: settings.storage_mb.unwrap_or(limits.default_storage_mb),
        environment: settings.environment.unwrap_or_default(),
        architectures: architectures(&document)?,
        tags: read_tags(&document)?,
        publish: document.get("Publish")?.unwrap_or(false),
        zip: zip(&code, "Code.ZipFile")?,
    })
}

/// Reads an UpdateFunctionCode document.
pub fn update_code(name: String, body: &[u8]) -> Result<UpdateCode, ApiError> {
    let document = Document::parse(body, UPDATE_CODE)?;
    architectures(&document)?;
    Ok(UpdateCode {
        name,
        revision_id: text(&document, "RevisionId", REVISION_LIMIT)?,
        dry_run: document.get("DryRun")?.unwrap_or(false),
        publish: document.get("Publish")?.unwrap_or(false),
        zip: zip(&document, "ZipFile")?,
    })
}

/// Reads an UpdateFunctionConfiguration document.
pub fn update_configuration(
    name: String,
    body: &[u8],
    limits: &Limits,
) -> Result<UpdateConfiguration, ApiError> {
    let document = Document::parse(body, UPDATE_CONFIGURATION)?;
    let settings = Settings::read(&document, limits)?;
    Ok(UpdateConfiguration {
        name,
        runtime: settings.runtime,
        handler: settings.handler,
        role: settings.role,
        description: settings.description,
        timeout_s: settings.timeout_s,
        memory_mb: settings.memory_mb,
        storage_mb: settings.storage_mb,
        environment: settings.environment,
        revision_id: text(&document, "RevisionId", REVISION_LIMIT)?,
    })
}

/// Reads a TagResource document.
pub fn tags(body: &[u8]) -> Result<BTreeMap<String, String>, ApiError> {
    read_tags(&Document::parse(body, TAGS)?)
}

/// Reads a PutFunctionConcurrency document.
pub fn reserved(body: &[u8]) -> Result<u32, ApiError> {
    const NAME: &str = "ReservedConcurrentExecutions";
    let document = Document::parse(body, &[(NAME, Use::Read)])?;
    required(number(&document, NAME, (0, MOST_CONCURRENCY))?, NAME)
}

/// Reads a PutProvisionedConcurrencyConfig document.
pub fn provisioned(body: &[u8]) -> Result<u32, ApiError> {
    const NAME: &str = "ProvisionedConcurrentExecutions";
    let document = Document::parse(body, &[(NAME, Use::Read)])?;
    required(number(&document, NAME, (1, MOST_CONCURRENCY))?, NAME)
}

fn read_tags(document: &Document<'_>) -> Result<BTreeMap<String, String>, ApiError> {
    let tags = document.get("Tags")?.unwrap_or_default();
    tags::check(&tags)?;
    Ok(tags)
}

/// What CreateFunction and UpdateFunctionConfiguration have in common.
struct Settings {
    runtime: Option<String>,
    handler: Option<String>,
    role: Option<String>,
    description: Option<String>,
    timeout_s: Option<u32>,
    memory_mb: Option<u32>,
    storage_mb: Option<u32>,
    environment: Option<BTreeMap<String, String>>,
}

impl Settings {
    fn read(document: &Document<'_>, limits: &Limits) -> Result<Self, ApiError> {
        if let Some(logging) = document.object("LoggingConfig", "LoggingConfig.", LOGGING)?
            && let Some(format) = logging.get::<String>("LogFormat")?.filter(|format| format != "Text")
        {
            return Err(invalid(format!(
                "Value '{format}' at 'LoggingConfig.LogFormat' is not supported: give Text"
            )));
        }
        let memory = (MEMORY_MB.0, MEMORY_MB.1.min(limits.max_memory_mb));
        let storage_mb = match document.object("EphemeralStorage", "EphemeralStorage.", STORAGE)? {
            Some(storage) => number(&storage, "Size", (SMALLEST_STORAGE_MB, limits.max_storage_mb))?,
            None => None,
        };
        let environment = match document.object("Environment", "Environment.", environment::TABLE)? {
            Some(environment) => Some(environment::read(&environment)?),
            None => None,
        };
        Ok(Self {
            runtime: runtime(document, limits)?,
            handler: handler(document)?,
            role: text(document, "Role", ROLE_LIMIT)?,
            description: text(document, "Description", DESCRIPTION_LIMIT)?,
            timeout_s: number(document, "Timeout", TIMEOUT_S)?,
            memory_mb: number(document, "MemorySize", memory)?,
            storage_mb,
            environment,
        })
    }
}

fn runtime(document: &Document<'_>, limits: &Limits) -> Result<Option<String>, ApiError> {
    let Some(runtime) = document.get::<String>("Runtime")? else { return Ok(None) };
    if limits.runtimes.contains(&runtime) {
        return Ok(Some(runtime));
    }
    Err(invalid(format!(
        "Value '{runtime}' at 'Runtime' is not a runtime of this system: give one of {}",
        limits.runtimes.join(", ")
    )))
}

fn handler(document: &Document<'_>) -> Result<Option<String>, ApiError> {
    let Some(handler) = text(document, "Handler", HANDLER_LIMIT)? else { return Ok(None) };
    if handler.is_empty()
        || handler.chars().any(|character| character.is_whitespace() || character.is_control())
    {
        return Err(invalid(format!(
            "Value '{handler}' at 'Handler' is no handler: give module and function, such as app.handler"
        )));
    }
    Ok(Some(handler))
}

fn architectures(document: &Document<'_>) -> Result<Vec<String>, ApiError> {
    let given: Vec<String> = document.get("Architectures")?.unwrap_or_default();
    match given.as_slice() {
        [] => Ok(vec![ARCHITECTURE.to_owned()]),
        [one] if one == ARCHITECTURE => Ok(given),
        _ => Err(invalid(format!(
            "Value {given:?} at 'Architectures' is not supported: give [\"{ARCHITECTURE}\"]"
        ))),
    }
}

fn zip(document: &Document<'_>, field: &str) -> Result<Bytes, ApiError> {
    let text = document.text("ZipFile")?;
    let text = text.ok_or_else(|| invalid(format!("Field '{field}' is missing: give the zip in base64")))?;
    // Before decoding: the text of an archive at the limit is a third longer.
    if text.len() / 4 > ZIP_LIMIT / 3 + 1 {
        return Err(too_large(text.len() / 4 * 3));
    }
    let zip = BASE64
        .decode(text.as_bytes())
        .map_err(|error| invalid(format!("Field '{field}' is not base64: {error}")))?;
    match zip.len() {
        0 => Err(invalid(format!("Field '{field}' is empty: give the zip in base64"))),
        size if size > ZIP_LIMIT => Err(too_large(size)),
        _ => Ok(Bytes::from(zip)),
    }
}

fn too_large(size: usize) -> ApiError {
    ApiError::RequestTooLarge(format!(
        "The zip has about {size} bytes, more than the {ZIP_LIMIT} that can be uploaded"
    ))
}

fn text(document: &Document<'_>, name: &str, limit: usize) -> Result<Option<String>, ApiError> {
    let Some(text) = document.get::<String>(name)? else { return Ok(None) };
    let length = text.chars().count();
    if length > limit {
        return Err(invalid(format!("Field '{name}' has {length} characters: give at most {limit}")));
    }
    Ok(Some(text))
}

fn number(document: &Document<'_>, name: &str, (least, most): (u32, u32)) -> Result<Option<u32>, ApiError> {
    let Some(number) = document.get::<i64>(name)? else { return Ok(None) };
    match u32::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(invalid(format!("Value '{number}' at '{name}' is out of range: give {least} to {most}"))),
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, ApiError> {
    value.ok_or_else(|| invalid(format!("Field '{name}' is missing")))
}

fn invalid(message: String) -> ApiError {
    ApiError::InvalidParameterValue(message)
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
