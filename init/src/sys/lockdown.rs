//! What even root may not ask of the kernel any more: its lockdown, which is only ever raised.

use std::fs;
use std::io;
use std::path::Path;

/// Where it is read and raised.
pub const PATH: &str = "/sys/kernel/security/lockdown";

/// As far as it goes: integrity (no other kernel, no ports, no registers, no tables of the firmware are written) and
/// beyond that, nothing of the kernel's memory is read. hostd's programs in the kernel are those of sockets and of packets,
/// which read packets and their own maps; none asks for the kernel's memory, and nothing here measures it.
const LEVEL: &str = "confidentiality";

/// It cannot be raised.
#[derive(Debug, thiserror::Error)]
#[error("Cannot raise the kernel's lockdown to {LEVEL}")]
pub struct LockdownError(#[source] io::Error);

/// Raises it; what holds from now on, `None` on a kernel without.
pub fn raise() -> Result<Option<String>, LockdownError> {
    raise_at(Path::new(PATH))
}

fn raise_at(path: &Path) -> Result<Option<String>, LockdownError> {
    let now = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LockdownError(error)),
    };
    if chosen(&now) != Some(LEVEL) {
        fs::write(path, LEVEL).map_err(LockdownError)?;
    }
    Ok(Some(LEVEL.to_owned()))
}

/// The word in brackets.
fn chosen(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_word_in_brackets_holds() {
        assert_eq!(chosen("[none] integrity confidentiality\n"), Some("none"));
        assert_eq!(chosen("none integrity [confidentiality]\n"), Some(LEVEL));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn it_is_raised_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lockdown");
        assert_eq!(raise_at(&path).unwrap(), None);
        fs::write(&path, "[none] integrity confidentiality\n").unwrap();
        assert_eq!(raise_at(&path).unwrap().as_deref(), Some(LEVEL));
        assert_eq!(fs::read_to_string(&path).unwrap(), LEVEL);
        // The kernel refuses to set what is set.
        let set = "none integrity [confidentiality]\n";
        fs::write(&path, set).unwrap();
        raise_at(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), set);
        assert!(raise_at(folder.path()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,60}") {
            let _ = chosen(&text);
        }
    }
}
