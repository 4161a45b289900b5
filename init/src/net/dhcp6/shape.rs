//! Whether the bytes of a message are made of options, before anybody reads what these mean. Pure.
//!
//! The library that reads them ends at the first option it cannot read as if that were the last, and takes the lengths of
//! some on trust. So a message that is cut, or lies about a length, is refused as a whole.

/// Largest message that is read: more than fits a packet of Ethernet.
pub const MOST_BYTES: usize = 2048;

/// Bytes before a message's options (its type, its transaction), and before what an option holds (code, length).
pub const HEAD: usize = 4;

/// Options within options within options: addresses in an association, a status in an address.
const MOST_DEPTH: u32 = 3;

/// Most options in a message, those within others too.
const MOST_OPTIONS: u32 = 128;

/// What is known of an option.
#[derive(Debug)]
struct Form {
    code: u16,
    least: usize,
    most: usize,
    /// Where options within it begin.
    inner: Option<usize>,
}

const fn plain(code: u16, least: usize, most: usize) -> Form {
    Form { code, least, most, inner: None }
}

const fn with_options(code: u16, head: usize) -> Form {
    Form { code, least: head, most: MOST_BYTES, inner: Some(head) }
}

#[rustfmt::skip]
const FORMS: &[Form] = &[
    // Client, server: a type, and up to 128 bytes.
    plain(1, 3, 130), plain(2, 3, 130),
    // Associations of addresses, and an address.
    with_options(3, 12), with_options(4, 4), with_options(5, 24),
    // Preference, elapsed time.
    plain(7, 1, 1), plain(8, 2, 2),
    // A message relayed, authentication, unicast, status.
    plain(9, 34, MOST_BYTES), plain(11, 11, MOST_BYTES), plain(12, 16, 16), plain(13, 2, MOST_BYTES),
    // Rapid commit; vendor class and options.
    plain(14, 0, 0), plain(16, 4, MOST_BYTES), with_options(17, 4),
    // Reconfiguration.
    plain(19, 1, 1), plain(20, 0, 0),
    // Associations of prefixes, and a prefix.
    with_options(25, 12), with_options(26, 25),
    // Times.
    plain(32, 4, 4), plain(82, 4, 4), plain(83, 4, 4),
];

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// It has no beginning, or no end.
    #[error("Message of {0} bytes")]
    Size(usize),
    /// An option is longer than what it is in.
    #[error("Option {0} is cut")]
    Cut(u16),
    /// An option cannot be that long.
    #[error("Option {code} has {length} bytes")]
    Length {
        /// Its code.
        code: u16,
        /// Its length.
        length: usize,
    },
    /// Too many options within options.
    #[error("Option {0} is too deep")]
    Deep(u16),
    /// Too many options.
    #[error("Message has more than {MOST_OPTIONS} options")]
    Many,
}

/// Checks a message: its options, each with its code, as they stand in it.
pub fn check(message: &[u8]) -> Result<Vec<(u16, &[u8])>, ShapeError> {
    let size = ShapeError::Size(message.len());
    let options = message.get(HEAD..).filter(|_| message.len() <= MOST_BYTES).ok_or(size)?;
    let mut left = MOST_OPTIONS;
    walk(options, 1, &mut left)
}

fn walk<'a>(mut rest: &'a [u8], depth: u32, left: &mut u32) -> Result<Vec<(u16, &'a [u8])>, ShapeError> {
    let mut options = Vec::new();
    while let Some((code, option)) = first(rest)? {
        *left = left.checked_sub(1).ok_or(ShapeError::Many)?;
        options.push((code, option));
        let length;
        (length, rest) = (option.len() - HEAD, &rest[option.len()..]);
        let Some(form) = FORMS.iter().find(|form| form.code == code) else { continue };
        if length < form.least || length > form.most {
            return Err(ShapeError::Length { code, length });
        }
        let Some(inner) = form.inner.and_then(|inner| option.get(HEAD + inner..)) else { continue };
        if depth == MOST_DEPTH && !inner.is_empty() {
            return Err(ShapeError::Deep(code));
        }
        walk(inner, depth + 1, left)?;
    }
    Ok(options)
}

/// The first option, with its head.
fn first(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, ShapeError> {
    let [c0, c1, rest @ ..] = bytes else {
        return if bytes.is_empty() { Ok(None) } else { Err(ShapeError::Cut(0)) };
    };
    let code = u16::from_be_bytes([*c0, *c1]);
    let [l0, l1, ..] = rest else { return Err(ShapeError::Cut(code)) };
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    let option = bytes.get(..HEAD + length).ok_or(ShapeError::Cut(code))?;
    Ok(Some((code, option)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_there_once() {
        for (at, form) in FORMS.iter().enumerate() {
            assert!(FORMS.iter().skip(at + 1).all(|other| other.code != form.code), "{}", form.code);
        }
    }

    #[test]
    fn what_is_cut_or_lies_is_refused() {
        let head = [7, 1, 2, 3];
        let message = |options: &[u8]| [&head[..], options].concat();
        assert_eq!(check(&head), Ok(Vec::new()));
        assert_eq!(check(&head[..3]), Err(ShapeError::Size(3)));
        assert_eq!(check(&[0; MOST_BYTES + 1]), Err(ShapeError::Size(MOST_BYTES + 1)));
        assert_eq!(check(&message(&[0, 23, 0])), Err(ShapeError::Cut(23)));
        assert_eq!(check(&message(&[0, 23, 0, 16, 0x20])), Err(ShapeError::Cut(23)));
        let sound = message(&[0, 99, 0, 1, 7, 0, 14, 0, 0]);
        assert_eq!(check(&sound), Ok(vec![(99, &[0, 99, 0, 1, 7][..]), (14, &[0, 14, 0, 0][..])]));
        // A status of one byte, a vendor's options without the vendor.
        assert_eq!(check(&message(&[0, 13, 0, 1, 0])), Err(ShapeError::Length { code: 13, length: 1 }));
        assert_eq!(check(&message(&[0, 17, 0, 2, 0, 0])), Err(ShapeError::Length { code: 17, length: 2 }));
        // An address cut within a sound association.
        let association = [&[0, 3, 0, 18][..], &[0; 12], &[0, 5, 0, 24, 0x20, 1]].concat();
        assert_eq!(check(&message(&association)), Err(ShapeError::Cut(5)));
        let mut deep: Vec<u8> = Vec::new();
        for _ in 0..4 {
            let length = u16::try_from(4 + deep.len()).unwrap().to_be_bytes();
            deep = [&[0, 4, length[0], length[1]][..], &[0; 4], &deep].concat();
        }
        assert_eq!(check(&message(&deep)), Err(ShapeError::Deep(4)));
        assert_eq!(check(&message(&[0, 99, 0, 0].repeat(129))), Err(ShapeError::Many));
        assert_eq!(check(&message(&[0, 99, 0, 0].repeat(128))).unwrap().len(), 128);
    }
}
