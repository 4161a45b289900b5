//! What is accepted, what is refused, and that the image holds exactly what the zip holds.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use backhand::{FilesystemReader, InnerNode};
use mote_package::{
    EntryProblem, HandlerError, Limits, PackageError, PackageInfo, build, check_python_handler,
};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

type Zip = ZipWriter<Cursor<Vec<u8>>>;

fn zip(fill: impl FnOnce(&mut Zip)) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    fill(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn options() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
}

fn file(zip: &mut Zip, name: &str, content: &[u8]) {
    zip.start_file(name, options()).unwrap();
    zip.write_all(content).unwrap();
}

/// Overwrites every `from` by `to`, of the same length: names the zip crate would not write.
fn patch(mut zip: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..zip.len() - from.len()).filter(|&i| zip[i..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for place in places {
        zip[place..place + to.len()].copy_from_slice(to);
    }
    zip
}

/// Offsets of the central directory's records.
fn central(zip: &[u8]) -> Vec<usize> {
    (0..zip.len() - 4).filter(|&i| zip[i..].starts_with(b"PK\x01\x02")).collect()
}

struct Built {
    _dir: tempfile::TempDir,
    image: PathBuf,
    info: PackageInfo,
}

fn build_with(zip: &[u8], limits: &Limits) -> Result<Built, PackageError> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    match build(zip, &image, limits) {
        Ok(info) => Ok(Built { _dir: dir, image, info }),
        Err(error) => {
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a refused package leaves nothing");
            Err(error)
        }
    }
}

fn refusal(zip: &[u8]) -> PackageError {
    match build_with(zip, &Limits::default()) {
        Ok(built) => panic!("accepted: {:?}", built.info),
        Err(error) => error,
    }
}

fn problem(zip: &[u8]) -> (String, EntryProblem) {
    match refusal(zip) {
        PackageError::Entry { entry, problem } => (entry, problem),
        other => panic!("not about an entry: {other}"),
    }
}

/// What is at a path of an image: mode, and a file's bytes, a link's target, or nothing.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Folder(u16),
    File(u16, Vec<u8>),
    Link(PathBuf),
}

fn read_back(image: &Path) -> BTreeMap<PathBuf, Found> {
    let reader =
        FilesystemReader::from_reader(std::io::BufReader::new(fs::File::open(image).unwrap())).unwrap();
    let mut found = BTreeMap::new();
    for node in reader.files() {
        assert_eq!((node.header.uid, node.header.gid), (0, 0));
        let path = node.fullpath.strip_prefix("/").unwrap().to_owned();
        let mode = node.header.permissions;
        let what = match &node.inner {
            InnerNode::Dir(_) => Found::Folder(mode),
            InnerNode::Symlink(link) => Found::Link(link.link.clone()),
            InnerNode::File(content) => {
                let mut bytes = Vec::new();
                reader.file(content).reader().read_to_end(&mut bytes).unwrap();
                Found::File(mode, bytes)
            }
            other => panic!("unexpected {other:?}"),
        };
        found.insert(path, what);
    }
    found
}

#[test]
fn a_package_becomes_an_image() {
    let package = zip(|z| {
        file(z, "app.py", b"def handler(event, context): return 1\n");
        file(z, "pkg/data/empty", b"");
        z.start_file("bootstrap", options().unix_permissions(0o700)).unwrap();
        z.write_all(&vec![7; 300_000]).unwrap();
        z.add_symlink("pkg/link.py", "../app.py", options()).unwrap();
        z.add_directory("hollow", options()).unwrap();
    });
    let built = build_with(&package, &Limits::default()).unwrap();
    let expected = BTreeMap::from([
        (PathBuf::from(""), Found::Folder(0o755)),
        ("app.py".into(), Found::File(0o644, b"def handler(event, context): return 1\n".to_vec())),
        ("bootstrap".into(), Found::File(0o755, vec![7; 300_000])),
        ("hollow".into(), Found::Folder(0o755)),
        ("pkg".into(), Found::Folder(0o755)),
        ("pkg/data".into(), Found::Folder(0o755)),
        ("pkg/data/empty".into(), Found::File(0o644, Vec::new())),
        ("pkg/link.py".into(), Found::Link("../app.py".into())),
    ]);
    assert_eq!(read_back(&built.image), expected);
    assert_eq!(built.info.entries, 7);
    assert_eq!(built.info.unpacked_size, 300_038);
    assert_eq!(built.info.code_size, package.len() as u64);
    assert_eq!(built.info.image_size, fs::metadata(&built.image).unwrap().len());
    let again = build_with(&package, &Limits::default()).unwrap();
    assert_eq!(fs::read(&built.image).unwrap(), fs::read(&again.image).unwrap(), "same zip, same image");
}

#[test]
fn the_checksum_is_lambdas() {
    // sha256sum of an empty zip's 22 bytes would do, but that is refused: the smallest real one instead.
    let package = zip(|z| file(z, "a", b""));
    let built = build_with(&package, &Limits::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("z");
    fs::write(&path, &package).unwrap();
    let told = std::process::Command::new("sh")
        .args(["-c", "openssl dgst -sha256 -binary \"$0\" | openssl base64 -A"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout), built.info.code_sha256_base64);
}

#[test]
fn names_that_lead_out_are_refused() {
    let one = || zip(|z| file(z, "aaaaaaaa", b"x"));
    let cases: &[(&[u8], EntryProblem)] = &[
        (b"../aaaaa", EntryProblem::ParentDir),
        (b"aa/../bb", EntryProblem::ParentDir),
        (b"/etc/abc", EntryProblem::Absolute),
        (b"C:/aaaaa", EntryProblem::Absolute),
        (b"aa\\aaaaa", EntryProblem::Backslash),
        (b"aa\0aaaaa", EntryProblem::ControlCharacter),
        (b"aa//aaaa", EntryProblem::EmptyName),
        (b"aa\xff\xfeaaaa", EntryProblem::NotUtf8),
    ];
    for (name, expected) in cases {
        let package = patch(one(), b"aaaaaaaa", name);
        assert_eq!(&problem(&package).1, expected, "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn links_may_not_leave_the_tree() {
    let linked = |target: &str| {
        zip(|z| {
            file(z, "dir/sub/f", b"x");
            z.add_symlink("dir/up", "..", options()).unwrap();
            z.add_symlink("dir/link", target, options()).unwrap();
        })
    };
    for inside in ["sub/f", "../dir/sub", "up/dir/sub/f", "nowhere/at/all", "./sub/../sub/f", "up"] {
        assert!(build_with(&linked(inside), &Limits::default()).is_ok(), "{inside}");
    }
    for outside in ["../..", "/etc/passwd", "sub/../../../x", "up/..", "up/../x", "link"] {
        let (entry, problem) = problem(&linked(outside));
        assert_eq!(
            (entry.as_str(), problem),
            ("dir/link", EntryProblem::LinkLeaves { target: outside.into() })
        );
    }
    let through = zip(|z| {
        z.add_symlink("dir", "other", options()).unwrap();
        file(z, "dir/f", b"x");
    });
    assert_eq!(problem(&through), ("dir".into(), EntryProblem::NotAFolder));
}

/// Every link goes through forty others, each a long way about: following all to the end would take long.
#[test]
fn links_upon_links_are_cut_short() {
    let package = zip(|z| {
        z.add_directory("d/e", options()).unwrap();
        for i in 0..35 {
            let next = if i == 0 { "e".to_owned() } else { format!("c{}", i - 1) };
            z.add_symlink(format!("d/c{i}"), "e/../".repeat(40) + &next, options()).unwrap();
        }
        (0..5000).for_each(|i| z.add_symlink(format!("d/l{i}"), "c34", options()).unwrap());
    });
    assert!(matches!(refusal(&package), PackageError::TooManyLinks));
    let plain = zip(|z| {
        file(z, "lib/target", b"x");
        (0..5000).for_each(|i| z.add_symlink(format!("bin/l{i}"), "../lib/target", options()).unwrap());
    });
    assert!(build_with(&plain, &Limits::default()).is_ok());
}

#[test]
fn conflicts_are_refused() {
    let twice = patch(
        zip(|z| {
            file(z, "aaaa", b"1");
            file(z, "bbbb", b"2");
        }),
        b"bbbb",
        b"aaaa",
    );
    assert_eq!(problem(&twice), ("aaaa".into(), EntryProblem::Duplicate));
    let file_then_folder = zip(|z| {
        file(z, "a", b"1");
        file(z, "a/b", b"2");
    });
    assert_eq!(problem(&file_then_folder), ("a".into(), EntryProblem::NotAFolder));
    let folder_then_file = zip(|z| {
        file(z, "a/b", b"2");
        file(z, "a", b"1");
    });
    assert_eq!(problem(&folder_then_file), ("a".into(), EntryProblem::NotAFolder));
    let folder_twice = zip(|z| {
        file(z, "dir/a", b"1");
        z.add_directory("dir", options()).unwrap();
    });
    assert!(build_with(&folder_twice, &Limits::default()).is_ok());
}

#[test]
fn special_files_encryption_and_odd_compression_are_refused() {
    let base = zip(|z| file(z, "abc", b"content"));
    let at = central(&base)[0];
    // External attributes: a character device.
    let mut device = base.clone();
    device[at + 40..at + 42].copy_from_slice(&0o020_644_u16.to_le_bytes());
    assert_eq!(problem(&device), ("abc".into(), EntryProblem::SpecialFile));
    let mut encrypted = base.clone();
    encrypted[at + 8] |= 1;
    assert_eq!(problem(&encrypted), ("abc".into(), EntryProblem::Encrypted));
    let mut lzma = base.clone();
    lzma[at + 10] = 14;
    assert_eq!(problem(&lzma), ("abc".into(), EntryProblem::Compression { method: 14 }));
    let mut other_name = base.clone();
    other_name[at + 46] = b'x';
    assert_eq!(problem(&other_name).0, "xbc");
}

#[test]
fn damaged_data_are_refused() {
    let base = zip(|z| file(z, "abc", &b"some content that packs ".repeat(50)));
    let at = central(&base)[0];
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut package = base.clone();
        change(&mut package);
        match problem(&package) {
            (_, EntryProblem::Damaged { what }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refuse(&|z| z[at + 16] ^= 1), "its checksum is wrong");
    assert_eq!(refuse(&|z| z[at + 24] -= 1), "its data are longer than it says");
    assert_eq!(refuse(&|z| z[at + 24] += 1), "its data are shorter than it says");
    assert_eq!(refuse(&|z| z[33] = 0xff), "its compressed data are not valid");
    assert_eq!(refuse(&|z| z[at + 42] = 5), "its local header or data are not in the file");
}

#[test]
fn shared_data_are_refused() {
    let mut package = zip(|z| {
        file(z, "aa", b"same content");
        file(z, "bb", b"same content");
    });
    // The second entry now uses the first one's data, and its name.
    let at = central(&package)[1];
    package[at + 42..at + 46].copy_from_slice(&0_u32.to_le_bytes());
    package[at + 46..at + 48].copy_from_slice(b"aa");
    assert_eq!(problem(&package).1, EntryProblem::Overlap);
}

#[test]
fn limits_are_held() {
    let limits = Limits { zip_bytes: 100_000, unpacked_bytes: 1_000_000, entries: 10, ..Limits::default() };
    let bomb = zip(|z| {
        file(z, "small", b"x");
        file(z, "big", &vec![0; 1_000_001]);
    });
    assert!(bomb.len() < 5000);
    assert!(matches!(build_with(&bomb, &limits),
        Err(PackageError::UnpackedTooLarge { entry, limit: 1_000_000 }) if entry == "big"));
    // Declared small, really large: never more is read than declared.
    let mut liar = bomb.clone();
    let at = central(&liar)[1];
    liar[at + 24..at + 28].copy_from_slice(&10_u32.to_le_bytes());
    assert!(matches!(build_with(&liar, &limits), Err(PackageError::Entry { entry, .. }) if entry == "big"));
    let many = zip(|z| (0..11).for_each(|i| file(z, &format!("f{i}"), b"")));
    assert!(matches!(build_with(&many, &limits), Err(PackageError::TooManyEntries { limit: 10 })));
    // One entry, but eleven with its folders.
    let deep = zip(|z| file(z, "a/b/c/d/e/f/g/h/i/j/k", b""));
    assert!(matches!(build_with(&deep, &limits), Err(PackageError::TooManyEntries { limit: 10 })));
    assert!(matches!(
        build_with(&vec![0; 100_001], &limits),
        Err(PackageError::ZipTooLarge { size: 100_001, limit: 100_000 })
    ));
    assert!(matches!(refusal(&zip(|_| ())), PackageError::Empty));
    for no_zip in [&b""[..], b"hello", b"PK\x03\x04", &[0; 1000]] {
        assert!(matches!(refusal(no_zip), PackageError::NotZip { .. }));
    }
}

#[test]
fn a_full_disk_is_the_hosts_fault() {
    let error =
        build(&zip(|z| file(z, "a", b"x")), Path::new("/nowhere/at/all"), &Limits::default()).unwrap_err();
    assert!(error.is_host_fault() && !error.is_no_space());
}

#[test]
fn handlers_are_looked_for() {
    let package = zip(|z| {
        file(z, "app.py", b"");
        file(z, "pkg/__init__.py", b"");
        file(z, "pkg/mod.py", b"");
        file(z, "native.cpython-311-x86_64-linux-gnu.so", b"");
        file(z, "compiled.pyc", b"");
        file(z, "dir.py/x", b"");
        z.add_symlink("alias.py", "app.py", options()).unwrap();
    });
    let built = build_with(&package, &Limits::default()).unwrap();
    for good in ["app.f", "pkg.f", "pkg/mod.f", "pkg.mod.f", "native.f", "compiled.f", "alias.f"] {
        assert!(check_python_handler(&built.image, good).is_ok(), "{good}");
    }
    for form in ["", "app", ".f", "app.", "/app.f", "pkg//mod.f", "a..f", "../app.f", "app.f/g"] {
        assert!(matches!(check_python_handler(&built.image, form), Err(HandlerError::Form { .. })), "{form}");
    }
    for missing in ["App.f", "ap.f", "app.py.f", "mod.f", "dir.f", "pkg/other.f"] {
        let error = check_python_handler(&built.image, missing).unwrap_err();
        assert!(matches!(error, HandlerError::Missing { .. }), "{missing}: {error}");
    }
    assert!(matches!(check_python_handler(Path::new("/nowhere"), "a.b"), Err(HandlerError::Image { .. })));
}

/// What a random package holds.
type Content = BTreeMap<String, (Vec<u8>, bool, bool)>;

fn content() -> impl Strategy<Value = Content> {
    let name = "[a-e]{1,2}(/[a-e]{1,2}){0,3}\\.f";
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..400_000).prop_map(|(byte, n)| vec![byte; n]),
        (any::<u64>(), 0_usize..300_000).prop_map(|(seed, n)| {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            };
            (0..n).map(|_| next()).collect()
        }),
    ];
    prop::collection::btree_map(name, (bytes, any::<bool>(), any::<bool>()), 1..12)
}

fn pack(content: &Content) -> Vec<u8> {
    zip(|z| {
        for (name, (bytes, executable, stored)) in content {
            let method = if *stored { CompressionMethod::Stored } else { CompressionMethod::Deflated };
            let mode = if *executable { 0o755 } else { 0o640 };
            z.start_file(name.as_str(), options().compression_method(method).unix_permissions(mode)).unwrap();
            z.write_all(bytes).unwrap();
        }
    })
}

/// Unpacks as another implementation does; what it refuses or cannot read gives nothing.
fn naive(zip: &[u8]) -> Option<BTreeMap<PathBuf, Vec<u8>>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).ok()?;
    let mut files = BTreeMap::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).ok()?;
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).ok()?;
            files.insert(entry.enclosed_name()?, bytes);
        }
    }
    Some(files)
}

fn files(image: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let file = |(path, found)| if let Found::File(_, bytes) = found { Some((path, bytes)) } else { None };
    read_back(image).into_iter().filter_map(file).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_survive(content in content()) {
        let package = pack(&content);
        let built = build_with(&package, &Limits::default()).unwrap();
        let found = read_back(&built.image);
        for (name, (bytes, executable, _)) in &content {
            let mode = if *executable { 0o755 } else { 0o644 };
            prop_assert_eq!(&found[Path::new(name)], &Found::File(mode, bytes.clone()));
        }
        prop_assert_eq!(found.values().filter(|f| matches!(f, Found::File(..))).count(), content.len());
        prop_assert_eq!(Some(files(&built.image)), naive(&package));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = build_with(&bytes, &Limits::default());
    }

    #[test]
    fn mutated_zips_are_refused_or_read_as_others_do(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut package = zip(|z| {
            file(z, "app.py", &b"def handler(): pass\n".repeat(20));
            file(z, "pkg/data", b"0123456789");
            z.add_symlink("pkg/link", "../app.py", options()).unwrap();
            z.add_directory("dir", options()).unwrap();
        });
        for (place, byte) in changes {
            let place = place.index(package.len());
            package[place] = byte;
        }
        if let Some(cut) = cut {
            package.truncate(cut.index(package.len()));
        }
        if let Ok(built) = build_with(&package, &Limits::default()) {
            let ours = files(&built.image);
            if let Some(theirs) = naive(&package) {
                for (path, bytes) in &ours {
                    if let Some(other) = theirs.get(path) {
                        prop_assert_eq!(bytes, other);
                    }
                }
            }
        }
    }
}
