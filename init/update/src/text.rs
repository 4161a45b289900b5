//! Text that is cut to what an error message needs of it.

/// Most characters of a foreign text in a message.
const MOST: usize = 60;

/// The beginning of a text.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(MOST).collect()
}
