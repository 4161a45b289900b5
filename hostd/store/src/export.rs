//! The export: all records in one plain file, replaced whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::records::Contents;
use crate::{SCHEMA, files};

/// `export.json`: its checksum covers the text of `records`.
#[derive(Serialize, Deserialize)]
struct Form {
    schema: u32,
    seq: u64,
    checksum: String,
    records: Box<RawValue>,
}

/// What reading an export gave.
#[derive(Debug)]
pub(crate) enum Export {
    /// There is none.
    Missing,
    /// All records as of the change `seq`.
    Sound { seq: u64, contents: Contents },
    /// Written by a newer version.
    Newer { schema: u32 },
    /// It cannot be understood; why.
    Unsound(String),
}

/// Reads the export at `path`.
pub(crate) fn read(path: &Path) -> Export {
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes).unwrap_or_else(Export::Unsound),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Export::Missing,
        Err(error) => Export::Unsound(error.to_string()),
    }
}

fn parse(bytes: &[u8]) -> Result<Export, String> {
    let form: Form = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if form.schema > SCHEMA {
        return Ok(Export::Newer { schema: form.schema });
    }
    if form.checksum != checksum(form.records.get()) {
        return Err("Its checksum is wrong".into());
    }
    let records: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(form.records.get()).map_err(|e| e.to_string())?;
    let contents = records.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect();
    Ok(Export::Sound { seq: form.seq, contents })
}

fn checksum(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// Replaces the export at `path`, by way of the file `temporary` on the same disk. On return it is on disk.
pub(crate) fn write(path: &Path, temporary: &Path, seq: u64, contents: &Contents) -> io::Result<()> {
    let mut records = std::collections::BTreeMap::new();
    for (key, value) in contents {
        records.insert(key, RawValue::from_string(value.clone())?);
    }
    let records = serde_json::value::to_raw_value(&records)?;
    let form = Form { schema: SCHEMA, seq, checksum: checksum(records.get()), records };
    let create =
        || File::options().write(true).create(true).truncate(true).mode(files::PRIVATE).open(temporary);
    let bytes = serde_json::to_vec(&form)?;
    let written = create()
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(temporary, path))
        .and_then(|()| files::sync_parent(path));
    if written.is_err() {
        // What is left of it goes when the store is opened next.
        let _ = std::fs::remove_file(temporary);
    }
    written
}
