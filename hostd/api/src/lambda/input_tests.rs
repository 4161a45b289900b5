use super::*;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({
        "FunctionName": "hello", "Runtime": "python3.11", "Handler": "app.handler",
        "Role": "arn:aws:iam::000000000000:role/any", "Code": { "ZipFile": STANDARD.encode("PK") },
    })
}

fn with(fields: &Value) -> Value {
    let mut document = minimal();
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

fn read(document: &Value) -> Result<CreateFunction, ApiError> {
    create(document.to_string().as_bytes(), &Limits::default())
}

#[test]
fn defaults_are_filled_in() {
    let function = read(&minimal()).unwrap();
    assert_eq!((function.timeout_s, function.memory_mb, function.storage_mb), (3, 128, 512));
    assert_eq!(function.architectures, ["x86_64"]);
    assert_eq!(function.zip, "PK");
    assert!(!function.publish && function.environment.is_empty() && function.description.is_empty());
}

#[test]
fn everything_that_can_be_given() {
    let function = read(&with(&json!({
        "FunctionName": "arn:aws:lambda:us-east-1:123456789012:function:a-b_C", "Description": "ä".repeat(256),
        "Timeout": 900, "MemorySize": 10_240, "EphemeralStorage": { "Size": 10_240 }, "Publish": true,
        "Environment": { "Variables": { "KEY": "value" } }, "Architectures": ["x86_64"], "PackageType": "Zip",
        "Tags": { "a": "b" }, "TracingConfig": { "Mode": "Active" }, "SnapStart": { "ApplyOn": "PublishedVersions" },
        "Layers": [], "VpcConfig": { "SubnetIds": [], "SecurityGroupIds": [] }, "DeadLetterConfig": null,
        "LoggingConfig": { "LogFormat": "Text", "LogGroup": "x" },
    })))
    .unwrap();
    assert_eq!(function.name, "a-b_C");
    assert_eq!((function.timeout_s, function.memory_mb, function.storage_mb), (900, 10_240, 10_240));
    assert_eq!(function.environment["KEY"], "value");
    assert_eq!(function.tags["a"], "b");
    assert!(function.publish);
}

#[test]
fn concurrency_is_a_number_within_its_bounds() {
    assert_eq!(reserved(br#"{"ReservedConcurrentExecutions":0}"#).unwrap(), 0);
    assert_eq!(provisioned(br#"{"ProvisionedConcurrentExecutions":7}"#).unwrap(), 7);
    for (read, body, says) in [
        (reserved as fn(&[u8]) -> _, "{}", "'ReservedConcurrentExecutions' is missing"),
        (reserved, r#"{"ReservedConcurrentExecutions":-1}"#, "give 0 to 2147483647"),
        (reserved, r#"{"ReservedConcurrentExecutions":"1"}"#, "not what it should be"),
        (reserved, r#"{"ProvisionedConcurrentExecutions":1}"#, "not known"),
        (provisioned, r#"{"ProvisionedConcurrentExecutions":null}"#, "is missing"),
        (provisioned, r#"{"ProvisionedConcurrentExecutions":0}"#, "give 1 to 2147483647"),
        (provisioned, r#"{"ProvisionedConcurrentExecutions":4294967297}"#, "out of range"),
        (provisioned, "[]", "into json"),
    ] {
        let error = read(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{body}: {error}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (fields, says) in [
        (json!({ "FunctionName": null }), "'FunctionName' is missing"),
        (json!({ "FunctionName": "a b" }), "no function name"),
        (json!({ "FunctionName": "a:1" }), "has a qualifier"),
        (json!({ "FunctionName": 7 }), "'FunctionName' is not what it should be"),
        (json!({ "Runtime": null }), "'Runtime' is missing"),
        (json!({ "Tags": { "mote:restore": "quick" } }), "give lazy, cached, reap or faasnap"),
        (json!({ "Runtime": "cobol" }), "give one of python3.11"),
        (json!({ "Handler": null }), "'Handler' is missing"),
        (json!({ "Handler": "" }), "no handler"),
        (json!({ "Handler": "app handler" }), "no handler"),
        (json!({ "Handler": "a".repeat(129) }), "at most 128"),
        (json!({ "Description": "a".repeat(257) }), "at most 256"),
        (json!({ "Timeout": 0 }), "give 1 to 900"),
        (json!({ "Timeout": 901 }), "give 1 to 900"),
        (json!({ "Timeout": -1 }), "give 1 to 900"),
        (json!({ "Timeout": 1.5 }), "'Timeout'"),
        (json!({ "Timeout": "3" }), "'Timeout'"),
        (json!({ "MemorySize": 127 }), "give 128 to 10240"),
        (json!({ "MemorySize": u64::MAX }), "'MemorySize'"),
        (json!({ "EphemeralStorage": { "Size": 63 } }), "give 64 to"),
        (json!({ "EphemeralStorage": { "Sise": 64 } }), "'EphemeralStorage.Sise' is not known"),
        (json!({ "Architectures": ["arm64"] }), "'Architectures'"),
        (json!({ "Architectures": ["x86_64", "x86_64"] }), "'Architectures'"),
        (json!({ "PackageType": "Image" }), "give Zip"),
        (json!({ "Code": null }), "'Code' is missing"),
        (json!({ "Code": {} }), "'Code.ZipFile' is missing"),
        (json!({ "Code": { "ZipFile": "" } }), "is empty"),
        (json!({ "Code": { "ZipFile": "%%%" } }), "not base64"),
        (json!({ "Code": { "S3Bucket": "b", "S3Key": "k" } }), "'Code.S3Bucket' is not supported here"),
        (json!({ "Code": { "ImageUri": "x" } }), "'Code.ImageUri'"),
        (json!({ "Layers": ["arn"] }), "'Layers' is not supported here"),
        (json!({ "VpcConfig": { "SubnetIds": ["s"] } }), "'VpcConfig' is not supported here"),
        (json!({ "KMSKeyArn": "arn" }), "'KMSKeyArn'"),
        (json!({ "FileSystemConfigs": [{}] }), "'FileSystemConfigs'"),
        (json!({ "DeadLetterConfig": { "TargetArn": "x" } }), "'DeadLetterConfig'"),
        (json!({ "LoggingConfig": { "LogFormat": "JSON" } }), "give Text"),
        (json!({ "Environment": { "Variables": { "AWS_REGION": "x" } } }), "AWS_REGION"),
        (json!({ "Surprise": 1 }), "'Surprise' is not known"),
    ] {
        let error = read(&with(&fields)).unwrap_err();
        assert_eq!(error.type_name(), "InvalidParameterValueException", "{fields}");
        assert!(error.to_string().contains(says), "{fields}: {error}");
    }
}

#[test]
fn the_machine_may_offer_less() {
    let limits = Limits { max_memory_mb: 256, ..Limits::default() };
    let document = with(&json!({ "MemorySize": 257 })).to_string();
    assert!(create(document.as_bytes(), &limits).unwrap_err().to_string().contains("give 128 to 256"));
}

#[test]
fn the_limit_of_the_archive() {
    let zip = |size: usize| with(&json!({ "Code": { "ZipFile": STANDARD.encode(vec![0; size]) } }));
    assert_eq!(read(&zip(ZIP_LIMIT)).unwrap().zip.len(), ZIP_LIMIT);
    assert_eq!(read(&zip(ZIP_LIMIT + 1)).unwrap_err().type_name(), "RequestTooLargeException");
    assert_eq!(read(&zip(ZIP_LIMIT + 10)).unwrap_err().type_name(), "RequestTooLargeException");
    assert!(zip(ZIP_LIMIT).to_string().len() < DOCUMENT_LIMIT);
}

#[test]
fn padding_and_escapes_do_not_matter() {
    for text in [r#""UEs""#, r#""UEs=""#, r#""UE\u0073=""#] {
        let document = minimal().to_string().replace(r#""UEs=""#, text);
        assert_eq!(create(document.as_bytes(), &Limits::default()).unwrap().zip, "PK");
    }
}

#[test]
fn updates_leave_out_what_is_left_out() {
    let update = update_configuration("f".to_owned(), b"{}", &Limits::default()).unwrap();
    assert_eq!(update, UpdateConfiguration { name: "f".to_owned(), ..UpdateConfiguration::default() });
    let body = json!({ "Timeout": 5, "Environment": { "Variables": {} }, "RevisionId": "r" }).to_string();
    let update = update_configuration("f".to_owned(), body.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(
        (update.timeout_s, update.environment, update.revision_id.as_deref()),
        (Some(5), Some(BTreeMap::new()), Some("r"))
    );
    let body = json!({ "ZipFile": "UEs=", "DryRun": true }).to_string();
    let update = update_code("f".to_owned(), body.as_bytes()).unwrap();
    assert!(update.dry_run && !update.publish && update.zip == "PK");
    assert!(update_code("f".to_owned(), b"{}").unwrap_err().to_string().contains("'ZipFile' is missing"));
}

/// JSON of any shape, with the names of real fields among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,16}".prop_map(Value::from),
    ];
    let names: Vec<&str> = CREATE.iter().chain(CODE).chain(UPDATE_CODE).map(|(name, _)| *name).collect();
    let key = prop_oneof![prop::sample::select(names).prop_map(str::to_owned), "\\PC{0,8}"];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_judged(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = create(&body, &Limits::default());
        let _ = update_code("f".to_owned(), &body);
        let _ = update_configuration("f".to_owned(), &body, &Limits::default());
    }

    #[test]
    fn what_passes_is_within_the_limits(fields in any_json()) {
        let limits = Limits::default();
        let document = match &fields {
            Value::Object(_) => with(&fields),
            _ => fields,
        };
        if let Ok(function) = read(&document) {
            prop_assert!((1..=900).contains(&function.timeout_s));
            prop_assert!((128..=limits.max_memory_mb).contains(&function.memory_mb));
            prop_assert!((64..=limits.max_storage_mb).contains(&function.storage_mb));
            prop_assert!(limits.runtimes.contains(&function.runtime) && !function.zip.is_empty());
        }
        let text = document.to_string();
        let _ = update_code("f".to_owned(), text.as_bytes());
        let _ = update_configuration("f".to_owned(), text.as_bytes(), &limits);
    }
}
