//! The function set of bench/functions: packaged, deployed, and run natively for the answers to expect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mote_image::cache::{Cache, Key};
use mote_image::process::{self, RunError};
use mote_image::project::Project;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Outcome;
use crate::client::{Answer, Client};

const FOLDER: &str = "bench/functions";
const TABLE: &str = "functions.toml";
const HANDLER: &str = "handler.handler";

/// Packs a folder into a zip; takes the wheels from the package index the first time.
const PACKAGER: &str = "examples/package.py";

/// What every package brings beside its own files.
const SHARED: [&str; 2] = ["inputs.py", TABLE];

/// Debian's own Python, of the version that functions run on.
const PYTHON: &str = "/usr/bin/python3";

const VENV_LIMIT: Duration = Duration::from_secs(120);
const PACKAGE_LIMIT: Duration = Duration::from_secs(900);
const NATIVE_LIMIT: Duration = Duration::from_secs(120);

/// A row of the table.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Memory of its microVM, MiB.
    pub memory_mb: u32,
    a: u64,
    b: u64,
}

impl Row {
    /// A function without a larger input is recorded and tested with the same one.
    pub fn varies(&self) -> bool {
        self.a != self.b
    }
}

/// The functions.
#[derive(Debug)]
pub struct Functions {
    project: Project,
    cache: Cache,
    python: PathBuf,
    table: BTreeMap<String, Row>,
}

/// A function that was packaged.
#[derive(Debug)]
pub struct Function<'a> {
    all: &'a Functions,
    /// Its name.
    pub name: String,
    /// What the table says.
    pub row: &'a Row,
    package: PathBuf,
}

/// What a function is called with.
pub fn event(input: &str, scale: f64) -> Value {
    json!({"input": input, "scale": scale})
}

impl Functions {
    /// Reads the table and makes sure that there is a Python which can package.
    pub fn open() -> Outcome<Self> {
        let project = Project::find(Path::new("."))?;
        let cache = Cache::open()?;
        let table = toml::from_str(&std::fs::read_to_string(project.file(FOLDER).join(TABLE))?)?;
        let version = process::run(Command::new(PYTHON).arg("--version"), VENV_LIMIT)?;
        let venv = cache.get_or_make("bench-python", &Key::new().with("version", version), |folder| {
            process::run(Command::new(PYTHON).args(["-m", "venv"]).arg(folder), VENV_LIMIT).map(drop)
        })?;
        Ok(Self { project, cache, python: venv.join("bin/python3"), table })
    }

    /// The names to take: all, or those wished for.
    pub fn names(&self, wished: &[String]) -> Outcome<Vec<String>> {
        if let Some(unknown) = wished.iter().find(|name| !self.table.contains_key(*name)) {
            let known: Vec<&str> = self.table.keys().map(String::as_str).collect();
            return Err(format!("There is no function {unknown}: take some of {}", known.join(", ")).into());
        }
        Ok(if wished.is_empty() { self.table.keys().cloned().collect() } else { wished.to_vec() })
    }

    /// The function of this name, packaged: once for the same sources.
    pub fn get(&self, name: &str) -> Outcome<Function<'_>> {
        let row = self.table.get(name).ok_or_else(|| format!("There is no function {name}"))?;
        let folder = self.project.file(FOLDER);
        let packager = self.project.file(PACKAGER);
        let also = SHARED.map(|file| folder.join(file));
        let mut key = Key::new();
        for path in sources(&folder.join(name))?.iter().chain(&also).chain([&packager]) {
            let file = path.file_name().unwrap_or_default();
            key = key.with(&file.to_string_lossy(), std::fs::read(path)?);
        }
        let entry = self.cache.get_or_make("bench-functions", &key, |work| -> Result<(), RunError> {
            let mut command = Command::new(&self.python);
            command
                .arg(&packager)
                .arg(folder.join(name))
                .arg(work.join("package.zip"))
                .arg("--with")
                .args(&also);
            process::run(&mut command, PACKAGE_LIMIT).map(drop)
        })?;
        Ok(Function { all: self, name: name.to_owned(), row, package: entry.join("package.zip") })
    }
}

/// The files of a function, in order.
fn sources(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

impl Function<'_> {
    /// Deploys it under a name.
    pub fn deploy(&self, client: &Client, name: &str) -> Outcome<()> {
        client.deploy(name, HANDLER, self.row.memory_mb, &std::fs::read(&self.package)?)
    }

    /// The answers of the same package, run natively.
    pub fn natively(&self, events: &[Value]) -> Outcome<Vec<Value>> {
        let mut command = Command::new(&self.all.python);
        command.arg(self.all.project.file(FOLDER).join("native.py")).arg(&self.package);
        command.args(events.iter().map(Value::to_string));
        let answers = process::run(&mut command, NATIVE_LIMIT)?;
        let answers = answers.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
        if answers.len() == events.len() {
            Ok(answers)
        } else {
            Err(format!("{} answered {} of {} events", self.name, answers.len(), events.len()).into())
        }
    }
}

/// An error unless the answer is the expected one.
pub fn check(answer: &Answer, expected: &Value) -> Outcome<()> {
    if &answer.value == expected {
        Ok(())
    } else {
        Err(format!("Answered {} instead of {expected}", answer.value).into())
    }
}
