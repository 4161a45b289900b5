//! A guest that touches the pages it is told to, and a model of it that knows what it must answer.
//!
//! It fills ranges of its pages, prints `ready`, then waits for a digit on its serial line, visits the pages of that
//! list in order and prints a checksum of what it read. A page's first word is its content as far as checksums go:
//! it comes from the filling, from a write (which stores the checksum so far) or is zero.

use std::fmt;
use std::ops::Range;

use crate::image::{Entry, MAPPED_GIB, elf};

/// Where the plan lies: 5 numbers and the lists' places, as guest.S reads them.
const PLAN: u64 = 0x40_0000;
const HEADER_BYTES: u64 = 40 + 16 * LISTS as u64;

/// Lists a guest can have: one decimal digit each, and not all of those.
pub const LISTS: usize = 8;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const MIB: u64 = 1 << 20;
/// The least a monitor gives a guest.
const LEAST_MIB: u64 = 16;
/// What the page tables reach.
const MEMORY_LIMIT_MIB: u64 = MAPPED_GIB * 1024;

/// First words of pages are multiples of this (odd, so that none is zero); further words are larger by the second.
const PAGE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const WORD_STEP: u64 = 0xd1b5_4a32_d192_ed03;

const WRITE: u32 = 1 << 31;
const READ: u32 = 1 << 30;
const ZERO: u32 = 1 << 29;
const INDEX: u32 = (1 << 28) - 1;

/// One page to touch, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit(u32);

impl Visit {
    /// Reads the page's first word.
    pub fn read(page: u32) -> Self {
        Self(page & INDEX | READ)
    }

    /// Stores one word in the page.
    pub fn write(page: u32) -> Self {
        Self(page & INDEX | WRITE)
    }

    /// Zeroes the whole page, as a kernel does which gives it back.
    pub fn zero(page: u32) -> Self {
        Self(page & INDEX | ZERO)
    }

    /// Zeroes the whole page and stores one word, as happens to a page a program is given.
    pub fn fresh(page: u32) -> Self {
        Self(page & INDEX | ZERO | WRITE)
    }

    /// The page.
    pub fn page(self) -> u32 {
        self.0 & INDEX
    }

    fn is(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// One of a guest's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List(u8);

impl List {
    /// What to type to have the guest visit its pages.
    pub fn digit(self) -> u8 {
        b'0' + self.0
    }
}

/// What a guest prints after a list, as it prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// There cannot be such a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// All digits are taken.
    #[error("A guest has at most {LISTS} lists")]
    TooMany,
    /// The guest has no such page.
    #[error("Page {page} is not one of the guest's {pages}")]
    Page {
        /// The page.
        page: u32,
        /// How many there are.
        pages: u32,
    },
}

/// The guest would be larger than what its page tables reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The guest needs {needed_mib} MiB of memory, at most {MEMORY_LIMIT_MIB} are possible")]
pub struct SizeError {
    needed_mib: u64,
}

/// A guest to be built.
#[derive(Clone, Debug)]
pub struct Touch {
    pages: u32,
    fills: Vec<Range<u32>>,
    lists: Vec<Vec<Visit>>,
}

/// A guest, built.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its kernel.
    pub elf: Vec<u8>,
    /// The memory it needs.
    pub memory_mib: u32,
    /// Guest physical address of page 0; also the offset in a memory file.
    pub first_page: u64,
}

impl Touch {
    /// A guest with this many pages to touch, all zero.
    pub fn new(pages: u32) -> Self {
        Self { pages: pages.min(INDEX), fills: Vec::new(), lists: Vec::new() }
    }

    /// Has it fill pages with other content than zeros before it is ready; pages it does not have are left out.
    pub fn fill(&mut self, pages: Range<u32>) {
        self.fills.push(pages.start.min(self.pages)..pages.end.min(self.pages));
    }

    /// Gives it a list.
    ///
    /// # Errors
    /// When there are too many, or a page of it is none of the guest's.
    pub fn list(&mut self, visits: impl IntoIterator<Item = Visit>) -> Result<List, ListError> {
        let visits: Vec<Visit> = visits.into_iter().collect();
        if let Some(visit) = visits.iter().find(|visit| visit.page() >= self.pages) {
            return Err(ListError::Page { page: visit.page(), pages: self.pages });
        }
        let digit = u8::try_from(self.lists.len()).ok().filter(|digit| usize::from(*digit) < LISTS);
        let list = List(digit.ok_or(ListError::TooMany)?);
        self.lists.push(visits);
        Ok(list)
    }

    /// Builds it.
    ///
    /// # Errors
    /// When it is too large.
    pub fn image(&self) -> Result<Image, SizeError> {
        let mut content = Vec::new();
        let mut place = |words: Vec<u32>| {
            let address = PLAN + HEADER_BYTES + content.len() as u64;
            content.extend(words.into_iter().flat_map(u32::to_le_bytes));
            address
        };
        let fills: Vec<&Range<u32>> = self.fills.iter().filter(|fill| !fill.is_empty()).collect();
        let ranges = fills.len() as u64;
        let ranges_at = place(fills.iter().flat_map(|fill| [fill.start, fill.end - fill.start]).collect());
        let mut places = Vec::new();
        for list in &self.lists {
            places.extend([place(list.iter().map(|visit| visit.0).collect()), list.len() as u64]);
        }
        places.resize(2 * LISTS, 0);

        let first_page = (PLAN + HEADER_BYTES + content.len() as u64).next_multiple_of(LARGE_PAGE);
        let memory_mib = (first_page + u64::from(self.pages) * PAGE).div_ceil(MIB).max(LEAST_MIB);
        let fits = u32::try_from(memory_mib).ok().filter(|mib| u64::from(*mib) <= MEMORY_LIMIT_MIB);
        let memory_mib = fits.ok_or(SizeError { needed_mib: memory_mib })?;
        let header = [first_page, PAGE_STEP, WORD_STEP, ranges, ranges_at];
        let mut plan: Vec<u8> = header.into_iter().chain(places).flat_map(u64::to_le_bytes).collect();
        plan.extend(content);
        Ok(Image { elf: elf(Entry::Touch, Some((PLAN, plan))), memory_mib, first_page })
    }

    /// The guest as it is when it is ready.
    pub fn model(&self) -> Model<'_> {
        let mut words = vec![0; usize::try_from(self.pages).unwrap_or_default()];
        for (word, page) in words.iter_mut().zip(0u32..) {
            if self.fills.iter().any(|fill| fill.contains(&page)) {
                *word = (u64::from(page) + 1).wrapping_mul(PAGE_STEP);
            }
        }
        Model { touch: self, words }
    }
}

/// What a guest's pages hold.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    touch: &'a Touch,
    words: Vec<u64>,
}

impl Model<'_> {
    /// Does what the guest does when it is given a list: what it will print.
    pub fn visit(&mut self, list: List) -> Checksum {
        let mut sum = 0u64;
        for visit in self.touch.lists.get(usize::from(list.0)).into_iter().flatten() {
            let page = usize::try_from(visit.page()).unwrap_or(usize::MAX);
            let Some(word) = self.words.get_mut(page) else { continue };
            if visit.is(READ) {
                sum = sum.rotate_left(5).wrapping_add(*word).wrapping_add(u64::from(visit.page()));
            }
            if visit.is(ZERO) {
                *word = 0;
            }
            if visit.is(WRITE) {
                *word = sum | 1;
            }
        }
        Checksum(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_depend_on_content_and_order() {
        let mut touch = Touch::new(4);
        touch.fill(0..2);
        let reads = touch.list([0, 1, 2].map(Visit::read)).unwrap();
        let backwards = touch.list([2, 1, 0].map(Visit::read)).unwrap();
        let writes = touch.list([Visit::read(0), Visit::write(2), Visit::zero(0)]).unwrap();
        let mut model = touch.model();
        let before = model.visit(reads);
        assert_eq!(model.visit(reads), before);
        assert_ne!(model.visit(backwards), before);
        let written = PAGE_STEP | 1;
        assert_eq!(model.visit(writes), Checksum(PAGE_STEP));
        let after = PAGE_STEP.wrapping_mul(2).wrapping_add(1).rotate_left(5).wrapping_add(written + 2);
        assert_eq!(model.visit(reads), Checksum(after));
        assert_eq!(Checksum(10).to_string(), "000000000000000a");
    }

    #[test]
    fn lists_have_limits() {
        let mut touch = Touch::new(4);
        assert_eq!(touch.list([Visit::read(4)]), Err(ListError::Page { page: 4, pages: 4 }));
        for digit in b'0'..b'8' {
            assert_eq!(touch.list([]).map(List::digit), Ok(digit));
        }
        assert_eq!(touch.list([]), Err(ListError::TooMany));
        assert!(Touch::new(1 << 20).image().is_err());
    }

    #[test]
    fn pages_lie_behind_the_plan() {
        let mut touch = Touch::new(100);
        assert_eq!(touch.image().unwrap().first_page, PLAN + LARGE_PAGE);
        touch.list(std::iter::repeat_n(Visit::read(1), 1 << 19)).unwrap();
        let image = touch.image().unwrap();
        assert_eq!(image.first_page, PLAN + 2 * LARGE_PAGE);
        assert_eq!(image.memory_mib, 16);
        assert!(u64::try_from(image.elf.len()).unwrap() > (1 << 21));
    }
}
