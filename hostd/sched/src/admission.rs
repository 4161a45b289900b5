//! A node's memory: who has what of it, and whether there is room for more.
//!
//! ```text
//! budget = shared + active + idle + draining + free          promised <= free + draining
//! ```
//!
//! What is idle can be made free by evictions. Eviction takes time: a start that needs it is promised memory that is
//! still draining and begins when that is back, after those that were promised before.
//!
//! A part of the budget may be withheld for a while, even of what is in use or promised: then nothing begins until enough of
//! it is back.

use crate::view::NodeView;

/// What a sandbox's memory counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Runs, comes up, is a blank or is always there.
    Active,
    /// May be evicted.
    Idle,
    /// Told to end.
    Draining,
    /// Waits for memory that drains.
    Promised,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    sandboxes: u32,
}

/// The books of one node. Sandboxes count too: there is a most of them.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    budget: u64,
    /// Of the budget: not to be had for now.
    withheld: u64,
    max_sandboxes: u32,
    shared: u64,
    parts: [Sum; 4],
}

/// Something in the page cache that sandboxes share: a snapshot or a base.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Image {
    users: u32,
    booked: u64,
    promised: u64,
}

impl Account {
    pub(crate) fn new(budget: u64, max_sandboxes: u32) -> Self {
        Self { budget, withheld: 0, max_sandboxes, shared: 0, parts: [Sum::default(); 4] }
    }

    fn part(&self, part: Part) -> Sum {
        self.parts[part as usize]
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    pub(crate) fn add(&mut self, part: Part, bytes: u64) {
        let sum = &mut self.parts[part as usize];
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.sandboxes += 1;
    }

    pub(crate) fn take(&mut self, part: Part, bytes: u64) {
        let sum = &mut self.parts[part as usize];
        sum.bytes = sum.bytes.saturating_sub(bytes);
        sum.sandboxes = sum.sandboxes.saturating_sub(1);
    }

    pub(crate) fn shift(&mut self, from: Part, to: Part, bytes: u64) {
        self.take(from, bytes);
        self.add(to, bytes);
    }

    /// A sandbox's memory changed while it stays what it is.
    pub(crate) fn resize(&mut self, part: Part, from: u64, to: u64) {
        let sum = &mut self.parts[part as usize];
        sum.bytes = sum.bytes.saturating_sub(from).saturating_add(to);
    }

    /// So much of the budget is not to be had from now on.
    pub(crate) fn withhold(&mut self, bytes: u64) {
        self.withheld = bytes.min(self.budget);
    }

    /// Whether more is in use and stays so than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.taken(&[Part::Active, Part::Idle]) > self.budget - self.withheld
    }

    /// What is shared, and what these have.
    fn taken(&self, parts: &[Part]) -> u64 {
        parts.iter().fold(self.shared, |sum, part| sum.saturating_add(self.part(*part).bytes))
    }

    /// What may be used besides what these have.
    fn beside(&self, parts: &[Part]) -> u64 {
        (self.budget - self.withheld).saturating_sub(self.taken(parts))
    }

    /// Memory nobody has.
    pub(crate) fn free(&self) -> u64 {
        self.beside(&[Part::Active, Part::Idle, Part::Draining])
    }

    /// Memory that is free or will be, and is promised to nobody.
    pub(crate) fn coming(&self) -> u64 {
        self.beside(&[Part::Active, Part::Idle, Part::Promised])
    }

    fn places(&self) -> u32 {
        let alive = self.part(Part::Active).sandboxes + self.part(Part::Idle).sandboxes;
        self.max_sandboxes.saturating_sub(alive.saturating_add(self.part(Part::Promised).sandboxes))
    }

    /// Memory that is not in use for calls: what a policy calls available.
    pub(crate) fn available(&self) -> u64 {
        self.beside(&[Part::Active, Part::Promised])
    }

    /// Whether there is room once enough is evicted.
    pub(crate) fn could_fit(&self, bytes: u64) -> bool {
        self.available() >= bytes && self.places() + self.part(Part::Idle).sandboxes > 0
    }

    /// Whether nothing (more) needs to be evicted.
    pub(crate) fn will_fit(&self, bytes: u64) -> bool {
        self.coming() >= bytes && self.places() > 0
    }

    /// Whether it can begin at once: nothing is owed to others and nothing needs to come back first. It takes what is
    /// promised for its images too.
    pub(crate) fn fits(&self, bytes: u64, promised: u64) -> bool {
        self.part(Part::Promised).sandboxes == 0
            && self.coming() >= bytes
            && self.begins(bytes.saturating_add(promised))
    }

    /// Whether the first of those with a promise can begin.
    pub(crate) fn begins(&self, bytes: u64) -> bool {
        let alive = [Part::Active, Part::Idle, Part::Draining]
            .iter()
            .map(|part| self.part(*part).sandboxes)
            .sum::<u32>();
        self.free() >= bytes && alive < self.max_sandboxes
    }

    /// Whether memory is on its way back.
    pub(crate) fn drains(&self) -> bool {
        self.part(Part::Draining).sandboxes > 0
    }

    /// Another sandbox will use an image of so many bytes; what that takes is promised.
    pub(crate) fn promise_image(&mut self, image: &mut Image, bytes: u64) {
        let more = image.missing(bytes);
        image.users += 1;
        image.promised += more;
        self.resize(Part::Promised, 0, more);
    }

    /// What is promised for an image is taken.
    pub(crate) fn take_image(&mut self, image: &mut Image) {
        self.resize(Part::Promised, image.promised, 0);
        self.shared += image.promised;
        image.booked += image.promised;
        image.promised = 0;
    }

    /// A sandbox does not use it any more. The page cache gives it back by itself when nobody does.
    pub(crate) fn leave_image(&mut self, image: &mut Image) {
        image.users = image.users.saturating_sub(1);
        if image.users == 0 {
            self.shared = self.shared.saturating_sub(image.booked);
            self.resize(Part::Promised, image.promised, 0);
            *image = Image::default();
        }
    }

    pub(crate) fn view(&self, blanks: usize) -> NodeView {
        NodeView {
            budget: self.budget,
            withheld: self.withheld,
            shared: self.shared,
            active: self.part(Part::Active).bytes,
            idle: self.part(Part::Idle).bytes,
            draining: self.part(Part::Draining).bytes,
            promised: self.part(Part::Promised).bytes,
            sandboxes: [Part::Active, Part::Idle, Part::Draining]
                .iter()
                .map(|part| self.part(*part).sandboxes)
                .sum(),
            blanks: u32::try_from(blanks).unwrap_or(u32::MAX),
        }
    }
}

impl Image {
    /// How much more it takes to have `bytes` of it.
    pub(crate) fn missing(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.booked + self.promised)
    }

    /// Promised and not taken yet.
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    #[cfg(test)]
    pub(crate) fn total(&self) -> (u32, u64, u64) {
        (self.users, self.booked, self.promised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drains_is_promised_once() {
        let mut account = Account::new(100, 9);
        account.add(Part::Active, 40);
        account.add(Part::Idle, 50);
        assert!(
            account.could_fit(60) && !account.could_fit(61) && !account.will_fit(11) && account.fits(10, 0)
        );
        account.shift(Part::Idle, Part::Draining, 50);
        assert!(account.will_fit(60) && !account.fits(60, 0));
        account.add(Part::Promised, 60);
        assert!(!account.could_fit(1) && !account.fits(1, 0), "free memory is promised too");
        account.take(Part::Draining, 50);
        assert!(account.begins(60));
        account.shift(Part::Promised, Part::Active, 60);
        assert_eq!((account.free(), account.coming()), (0, 0));
    }

    #[test]
    fn images_count_once_and_as_long_as_they_are_used() {
        let mut account = Account::new(100, 9);
        let mut image = Image::default();
        account.promise_image(&mut image, 30);
        account.promise_image(&mut image, 30);
        assert_eq!((account.coming(), account.free()), (70, 100));
        account.take_image(&mut image);
        account.leave_image(&mut image);
        assert_eq!((account.coming(), account.free()), (70, 70));
        account.promise_image(&mut image, 45);
        assert_eq!((account.coming(), account.free()), (55, 70), "it grew");
        assert!(
            account.fits(55, 0) && !account.fits(56, 0) && !account.fits(55, 16),
            "what is promised is not free"
        );
        account.leave_image(&mut image);
        account.leave_image(&mut image);
        assert_eq!((account.coming(), account.free()), (100, 100));
    }

    #[test]
    fn what_is_withheld_is_nobodys_even_if_it_is_in_use() {
        let mut account = Account::new(100, 9);
        account.add(Part::Active, 40);
        account.add(Part::Idle, 50);
        account.withhold(5);
        assert!(!account.is_over() && (account.free(), account.coming(), account.available()) == (5, 5, 55));
        account.withhold(30);
        assert!(account.is_over() && (account.free(), account.coming(), account.available()) == (0, 0, 30));
        account.shift(Part::Idle, Part::Draining, 50);
        assert!(!account.is_over() && (account.free(), account.coming()) == (0, 30));
        account.take(Part::Draining, 50);
        assert!(account.fits(30, 0) && !account.fits(31, 0));
        account.withhold(1000);
        assert!(account.is_over() && account.available() == 0);
        account.withhold(0);
        assert!(account.fits(60, 0));
    }

    #[test]
    fn sandboxes_are_counted_too() {
        let mut account = Account::new(100, 2);
        account.add(Part::Active, 1);
        account.add(Part::Idle, 1);
        assert!(account.could_fit(1) && !account.will_fit(1));
        account.shift(Part::Idle, Part::Draining, 1);
        assert!(account.will_fit(1) && !account.fits(1, 0));
        account.take(Part::Draining, 1);
        assert!(account.fits(1, 0));
    }
}
