//! The environment a function starts in: what Lambda promises, the runtime's own, the user's.

use std::collections::BTreeMap;
use std::path::Path;

use mote_protocol::{FunctionSpec, Identity};

use crate::runtime::RuntimeFile;

/// What can be overridden by the runtime image and the function.
const DEFAULTS: &[(&str, &str)] = &[
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_REGION", "us-east-1"),
    ("LANG", "en_US.UTF-8"),
    ("LD_LIBRARY_PATH", "/var/task:/var/task/lib:/opt/lib"),
    ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
    ("TZ", ":UTC"),
];

/// What a function never sets, besides everything [`build`] sets itself.
const RESERVED: &[&str] = &["_X_AMZN_TRACE_ID", "_LAMBDA_TELEMETRY_LOG_FD", "AWS_LAMBDA_MAX_CONCURRENCY"];

/// Where this sandbox has what a runtime looks for.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// `HOST:PORT` of the Runtime API.
    pub api: &'a str,
    /// The folder of the function's code.
    pub task_root: &'a Path,
    /// The link that names the sandbox's generation, see [`crate::generation`].
    pub generation: &'a Path,
}

/// Name and value of every variable.
pub type Environment = BTreeMap<String, String>;

/// The whole environment of the runtime process.
#[must_use]
pub fn build(
    function: &FunctionSpec,
    identity: &Identity,
    runtime: &RuntimeFile,
    places: Places<'_>,
) -> Environment {
    let text = |s: &str| s.to_owned();
    let reserved = [
        ("_HANDLER", function.handler.clone()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", function.name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", function.version.clone()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", function.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", log_stream(function, identity)),
    ];
    let mut environment = weak(runtime);
    // The rest of what the host accepted is passed on unless no process could be started with it.
    let usable =
        |key: &str, value: &str| !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0');
    environment.extend(function.environment.clone().into_iter().filter(|(key, value)| usable(key, value)));
    environment.retain(|key, _| !RESERVED.contains(&key.as_str()));
    environment.extend(strong(&function.runtime, runtime, places));
    environment.extend(reserved.map(|(key, value)| (text(key), value)));
    environment
}

/// The environment of a runtime process whose function is not known yet: what is the same for all of them.
#[must_use]
pub fn base(runtime_name: &str, runtime: &RuntimeFile, places: Places<'_>) -> Environment {
    let mut environment = weak(runtime);
    environment.extend(strong(runtime_name, runtime, places));
    environment
}

/// What a function may override.
fn weak(runtime: &RuntimeFile) -> Environment {
    let defaults = DEFAULTS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    defaults.chain(runtime.env.clone()).collect()
}

/// What it may not.
fn strong(runtime_name: &str, runtime: &RuntimeFile, places: Places<'_>) -> Environment {
    let text = |s: &str| s.to_owned();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let pairs = [
        ("AWS_EXECUTION_ENV", format!("AWS_Lambda_{runtime_name}")),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", text(if runtime.snapshot { "snap-start" } else { "on-demand" })),
        ("AWS_LAMBDA_RUNTIME_API", text(places.api)),
        ("LAMBDA_RUNTIME_DIR", text("/var/runtime")),
        ("LAMBDA_TASK_ROOT", path(places.task_root)),
        // For the runtime's start program, which keeps it from the function.
        ("MOTE_GENERATION", path(places.generation)),
    ];
    pairs.map(|(key, value)| (text(key), value)).into()
}

/// `2026/11/21/[$LATEST]0123456789abcdef`, as Lambda names them.
fn log_stream(function: &FunctionSpec, identity: &Identity) -> String {
    let (year, month, day) = civil_date(identity.time_unix_ns / 1_000_000_000 / 86_400);
    let instance = identity.instance_id.replace('-', "");
    format!("{year}/{month:02}/{day:02}/[{}]{instance}", function.version)
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March of year 0, so that the leap day is the last of its year; 719 468 days lie
    // between then and 1970, 146 097 are a full cycle of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn function(environment: BTreeMap<String, String>) -> FunctionSpec {
        FunctionSpec {
            name: "hello".into(),
            version: "$LATEST".into(),
            handler: "app.handler".into(),
            runtime: "python3.11".into(),
            memory_mb: 128,
            storage_mb: 64,
            environment,
        }
    }

    fn identity(seconds: u64) -> Identity {
        Identity {
            instance_id: "01-23-ab".into(),
            hostname: "box".into(),
            time_unix_ns: seconds * 1_000_000_000,
            entropy_hex: String::new(),
            network: None,
        }
    }

    fn python() -> RuntimeFile {
        let env = BTreeMap::from([("LANG".into(), "C.UTF-8".into()), ("PYTHONPATH".into(), "/r".into())]);
        RuntimeFile { exec: vec!["python".into()], env, snapshot: true, prewarm: None }
    }

    fn places() -> Places<'static> {
        Places {
            api: "127.0.0.1:9001",
            task_root: Path::new("/var/task"),
            generation: Path::new("/run/mote/generation"),
        }
    }

    fn made(environment: &[(&str, &str)], seconds: u64) -> BTreeMap<String, String> {
        let own = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        build(&function(own), &identity(seconds), &python(), places())
    }

    #[test]
    fn is_what_lambda_promises() {
        let made = made(&[("STAGE", "prod")], 1_795_000_000);
        for (key, value) in [
            ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
            ("AWS_LAMBDA_FUNCTION_NAME", "hello"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/hello"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/18/[$LATEST]0123ab"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start"),
            ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11"),
            ("LAMBDA_TASK_ROOT", "/var/task"),
            ("MOTE_GENERATION", "/run/mote/generation"),
            ("_HANDLER", "app.handler"),
            ("LANG", "C.UTF-8"),
            ("PYTHONPATH", "/r"),
            ("TZ", ":UTC"),
            ("STAGE", "prod"),
        ] {
            assert_eq!(made.get(key).map(String::as_str), Some(value), "{key}");
        }
    }

    #[test]
    fn a_function_overrides_defaults_but_nothing_reserved() {
        let made = made(
            &[
                ("TZ", "Europe/Bern"),
                ("_HANDLER", "x"),
                ("AWS_LAMBDA_RUNTIME_API", "evil:1"),
                ("A\0B", "c"),
                ("A=B", "c"),
                ("AWS_LAMBDA_MAX_CONCURRENCY", "9"),
            ],
            0,
        );
        assert_eq!(made["TZ"], "Europe/Bern");
        assert_eq!(made["_HANDLER"], "app.handler");
        assert_eq!(made["AWS_LAMBDA_RUNTIME_API"], "127.0.0.1:9001");
        assert!(made.keys().all(|key| !key.contains(['\0', '='])));
        assert!(!made.contains_key("AWS_LAMBDA_MAX_CONCURRENCY"));
    }

    #[test]
    fn without_a_function_only_what_is_its_own_is_missing() {
        let base = base("python3.11", &python(), places());
        let made = made(&[("STAGE", "prod"), ("TZ", "Europe/Bern"), ("LAMBDA_TASK_ROOT", "/x")], 0);
        let differ: Vec<&str> = made
            .iter()
            .filter(|(key, value)| base.get(*key) != Some(value))
            .map(|(key, _)| key.as_str())
            .collect();
        let own = [
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            "AWS_LAMBDA_FUNCTION_NAME",
            "AWS_LAMBDA_FUNCTION_VERSION",
            "AWS_LAMBDA_LOG_GROUP_NAME",
            "AWS_LAMBDA_LOG_STREAM_NAME",
            "STAGE",
            "TZ",
            "_HANDLER",
        ];
        assert_eq!(differ, own);
        assert!(base.keys().all(|key| made.contains_key(key)));
    }

    #[test]
    fn dates() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(19_782), (2024, 2, 29));
        assert_eq!(civil_date(19_783), (2024, 3, 1));
        assert_eq!(civil_date(20_818), (2026, 12, 31));
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(day in 0u64..200_000) {
            let (a, b) = (civil_date(day), civil_date(day + 1));
            let next_day = b == (a.0, a.1, a.2 + 1);
            let next_month = b == (a.0, a.1 + 1, 1) && a.2 >= 28;
            let next_year = a.1 == 12 && a.2 == 31 && b == (a.0 + 1, 1, 1);
            prop_assert!(next_day || next_month || next_year, "{:?} {:?}", a, b);
        }
    }
}
