//! Reads the directory of a zip: every entry's name, kind and where its bytes are. Nothing of it is trusted.

use std::path::PathBuf;

use rawzip::time::ZipDateTimeKind;
use rawzip::{CompressionMethod, CreatorSystem, ZipArchive, ZipFileHeaderRecord, ZipSliceArchive};

use crate::path;
use crate::{EntryProblem, Limits, PackageError};

/// Longest target of a link, in bytes: the image writer panics beyond.
const MAX_TARGET: u64 = 255;

/// How an entry's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Store,
    Deflate,
}

/// Where an entry's bytes are, and what they must come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data<'a> {
    pub method: Method,
    pub packed: &'a [u8],
    pub size: u64,
    pub crc: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    Folder,
    File { data: Data<'a>, executable: bool },
    Link { data: Data<'a> },
}

/// One entry, its name checked.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Relative, without `.` or `..`; empty for the root itself.
    pub path: PathBuf,
    pub kind: Kind<'a>,
    /// Seconds since 1970, as the zip says: byte code beside its source is only used if this is kept.
    pub mtime: u32,
}

/// Reads all entries of `zip`. Checks names, kinds, sizes as declared, and that no two share bytes.
pub(crate) fn read<'a>(zip: &'a [u8], limits: &Limits) -> Result<Vec<Entry<'a>>, PackageError> {
    let archive = ZipArchive::from_slice(zip).map_err(|e| not_zip(&e))?;
    let mut entries = Vec::new();
    let mut ranges = Vec::new();
    let mut declared = 0_u64;
    let mut count = 0_u64;
    let mut directory = archive.entries();
    while let Some(record) = directory.next_entry().map_err(|e| not_zip(&e))? {
        count += 1;
        if count > u64::from(limits.entries) {
            return Err(PackageError::TooManyEntries { limit: limits.entries });
        }
        let name = record.file_path().as_bytes();
        let refuse = |problem| refuse(name, problem);
        let (entry, range) = read_entry(zip, &archive, &record, limits).map_err(refuse)?;
        if let Kind::File { data, .. } | Kind::Link { data } = &entry.kind {
            declared = declared.saturating_add(data.size);
            if declared > limits.unpacked_bytes {
                let limit = limits.unpacked_bytes;
                return Err(PackageError::UnpackedTooLarge { entry: path::show(name), limit });
            }
        }
        ranges.push((range, name));
        entries.push(entry);
    }
    // Without zip64 the directory's count has 16 bits.
    let hint = archive.entries_hint();
    if hint != count && hint != count & 0xffff {
        return Err(PackageError::NotZip {
            reason: format!("It lists {count} entries but says it has {hint}"),
        });
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [((_, end), _), ((start, _), name)] = pair
            && start < end
        {
            return Err(refuse(name, EntryProblem::Overlap));
        }
    }
    if let Some(((_, end), name)) = ranges.last()
        && *end > archive.directory_offset()
    {
        return Err(refuse(name, EntryProblem::Overlap));
    }
    Ok(entries)
}

/// Names the entry in an error.
pub(crate) fn refuse(name: &[u8], problem: EntryProblem) -> PackageError {
    PackageError::Entry { entry: path::show(name), problem }
}

fn not_zip(error: &rawzip::Error) -> PackageError {
    PackageError::NotZip { reason: error.to_string() }
}

/// Bytes of the zip an entry takes: from its local header to the end of its data.
type Range = (u64, u64);

fn read_entry<'a>(
    zip: &'a [u8],
    archive: &ZipSliceArchive<&'a [u8]>,
    record: &ZipFileHeaderRecord<'_>,
    limits: &Limits,
) -> Result<(Entry<'a>, Range), EntryProblem> {
    let name = record.file_path().as_bytes();
    let path = path::check(name, limits)?;
    let flags = record.flags();
    if flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked() {
        return Err(EntryProblem::Encrypted);
    }
    let damaged = |what| EntryProblem::Damaged { what };
    let body = archive
        .get_entry(record.wayfinder())
        .map_err(|_| damaged("its local header or data are not in the file"))?;
    if body.local_header().file_path().as_bytes() != name {
        return Err(damaged("its local header has another name"));
    }
    let (start, end) = body.compressed_data_range();
    let packed = usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| zip.get(start..end))
        .ok_or_else(|| damaged("its data are not in the file"))?;

    let attributes = Attributes::of(record);
    let size = record.uncompressed_size_hint();
    let kind = match attributes.kind {
        _ if record.is_dir() => AttributeKind::Folder,
        kind => kind,
    };
    let kind = if kind == AttributeKind::Folder {
        if size != 0 {
            return Err(EntryProblem::FolderWithData);
        }
        Kind::Folder
    } else {
        let method = match record.compression_method() {
            CompressionMethod::STORE => Method::Store,
            CompressionMethod::DEFLATE => Method::Deflate,
            other => return Err(EntryProblem::Compression { method: other.as_u16() }),
        };
        let data = Data { method, packed, size, crc: record.crc32() };
        if method == Method::Store && end - start != size {
            return Err(damaged("its stored size is not its size"));
        }
        match kind {
            AttributeKind::Link if size > MAX_TARGET => return Err(EntryProblem::LinkTarget),
            AttributeKind::Link => Kind::Link { data },
            AttributeKind::Special => return Err(EntryProblem::SpecialFile),
            _ => Kind::File { data, executable: attributes.executable },
        }
    };
    if path.as_os_str().is_empty() && !matches!(kind, Kind::Folder) {
        return Err(EntryProblem::EmptyName);
    }
    Ok((Entry { path, kind, mtime: mtime(record) }, (record.local_header_offset(), end)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AttributeKind {
    File,
    Folder,
    Link,
    Special,
}

/// What the Unix half of the external attributes says.
struct Attributes {
    kind: AttributeKind,
    executable: bool,
}

impl Attributes {
    fn of(record: &ZipFileHeaderRecord<'_>) -> Self {
        let mode = record.external_attributes() >> 16;
        // Only Unix writers mean the file type; others leave bits there that mean nothing.
        let unix =
            matches!(record.version_made_by().creator_system(), CreatorSystem::UNIX | CreatorSystem::MACOS);
        let kind = match mode & 0o170_000 {
            _ if !unix => AttributeKind::File,
            0 | 0o100_000 => AttributeKind::File,
            0o040_000 => AttributeKind::Folder,
            0o120_000 => AttributeKind::Link,
            _ => AttributeKind::Special,
        };
        Self { kind, executable: mode & 0o111 != 0 }
    }
}

/// The modification time, where it has no zone taken as UTC (as if unpacked there).
fn mtime(record: &ZipFileHeaderRecord<'_>) -> u32 {
    let time = record.last_modified();
    let seconds = match &time {
        ZipDateTimeKind::Utc(utc) => utc.to_unix(),
        ZipDateTimeKind::Local(local) => rawzip::time::UtcDateTime::from_components(
            local.year(),
            local.month(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second(),
            0,
        )
        .map_or(0, |utc| utc.to_unix()),
    };
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}
