//! Which servers are asked when: what each of them asked for is kept to. Pure.

use std::time::Duration;

use super::query::Kiss;
use crate::backoff::Backoff;

/// Servers asked; further ones in a list are left out.
pub const MOST: usize = 8;

/// Pause of a server that asked to be asked less often, doubled each time it asks again.
const SLOWER: Backoff = Backoff { first: Duration::from_secs(128), most: Duration::from_secs(36 * 3600) };

/// One that refuses us is left alone for a day.
const REFUSED: Duration = Duration::from_secs(24 * 3600);

/// The servers and what they asked for.
#[derive(Debug)]
pub struct Servers {
    all: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    name: String,
    /// Not asked before; time since boot.
    rests_until: Duration,
    slower: u32,
}

impl Servers {
    /// The first of a list, each once.
    pub fn new(names: &[String]) -> Self {
        let mut all: Vec<Server> = Vec::new();
        for name in names {
            if all.len() < MOST && !all.iter().any(|server| server.name == *name) {
                all.push(Server { name: name.clone(), rests_until: Duration::ZERO, slower: 0 });
            }
        }
        Self { all }
    }

    /// Those that may be asked now.
    pub fn due(&self, now: Duration) -> Vec<String> {
        self.all.iter().filter(|server| server.rests_until <= now).map(|server| server.name.clone()).collect()
    }

    /// When the first of those that rest may be asked again.
    pub fn next(&self) -> Option<Duration> {
        self.all.iter().map(|server| server.rests_until).min()
    }

    /// A server said something else than the time.
    pub fn kissed(&mut self, name: &str, kiss: Kiss, now: Duration) {
        let Some(server) = self.all.iter_mut().find(|server| server.name == name) else { return };
        let rest = match kiss {
            Kiss::Refused => REFUSED,
            Kiss::Slower => {
                server.slower = server.slower.saturating_add(1);
                SLOWER.delay(server.slower.saturating_sub(1))
            }
            Kiss::Other => return,
        };
        server.rests_until = server.rests_until.max(now.saturating_add(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn servers(names: &[&str]) -> Servers {
        Servers::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_server_asks_for_is_kept_to() {
        let mut all = servers(&["a", "b", "a"]);
        assert_eq!(all.due(S(0)), ["a", "b"]);
        all.kissed("a", Kiss::Slower, S(10));
        all.kissed("b", Kiss::Other, S(10));
        assert_eq!(all.due(S(137)), ["b"]);
        assert_eq!(all.due(S(138)), ["a", "b"]);
        all.kissed("a", Kiss::Slower, S(200));
        assert_eq!(all.due(S(455)), ["b"]);
        all.kissed("b", Kiss::Refused, S(455));
        assert!(all.due(S(455)).is_empty());
        assert_eq!(all.next(), Some(S(456)));
        assert_eq!(all.due(S(40_000)), ["a"]);
    }

    proptest! {
        #[test]
        fn nobody_is_asked_before_the_rest_is_over(kisses in prop::collection::vec((0usize..3, 0u8..3, 0u64..100_000), 0..40)) {
            let names = ["a", "b", "c"];
            let mut all = servers(&names);
            let mut now = S(0);
            for (which, kind, later) in kisses {
                now += S(later);
                let kiss = [Kiss::Slower, Kiss::Refused, Kiss::Other][usize::from(kind)];
                let was_due = all.due(now).contains(&names[which].to_owned());
                all.kissed(names[which], kiss, now);
                let least = match kiss { Kiss::Slower => S(128), Kiss::Refused => S(86_400), Kiss::Other => S(0) };
                let name = names[which].to_owned();
                prop_assert!(least.is_zero() || !all.due(now + least - S(1)).contains(&name));
                prop_assert!(!least.is_zero() || all.due(now).contains(&name) == was_due);
                prop_assert!(all.due(now + S(40 * 3600 + 86_400)).len() == 3);
            }
        }
    }
}
