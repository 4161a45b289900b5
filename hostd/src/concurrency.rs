//! What functions may have reserved and provisioned: no more than the machine and their tenants can hold. Pure.

use mote_api::ProvisionedState;
use mote_store::FunctionConfig;

use crate::pool::{Bounds, MONITOR_OVERHEAD_MB, Standing};
use crate::text::chain;

/// Calls at once that are left to functions without a reservation, of the machine and of each tenant.
const UNRESERVED: u32 = 1;

/// What a function is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Name of its tenant.
    pub tenant: String,
    /// Calls at once.
    pub reserved: Option<u32>,
    /// Sandboxes that are always there.
    pub provisioned: u32,
    /// Memory of one of them, MiB.
    pub sandbox_mb: u64,
}

impl Demand {
    /// Of a function as it is configured.
    pub fn of(config: &FunctionConfig, tenant: String) -> Self {
        Self {
            tenant,
            reserved: config.reserved_concurrency,
            provisioned: config.provisioned_concurrency.unwrap_or(0),
            sandbox_mb: u64::from(config.memory_mb) + MONITOR_OVERHEAD_MB,
        }
    }

    fn provisioned_mb(&self) -> u64 {
        self.sandbox_mb.saturating_mul(self.provisioned.into())
    }
}

/// Why a function cannot have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConcurrencyError {
    /// Calls in more sandboxes than there may be calls.
    #[error(
        "A provisioned concurrency of {provisioned} is more than the function's reserved concurrency of {reserved}: give \
         at most that, or reserve more"
    )]
    BeyondReserved {
        /// What is to be there.
        provisioned: u32,
        /// What it may have.
        reserved: u32,
    },
    /// Too little would be left to others.
    #[error(
        "A reserved concurrency of {reserved} is more than can be reserved: give at most {most}; {UNRESERVED} is left to \
         functions without (sandbox.max_sandboxes, and max_sandboxes and endpoints of its tenant's network)"
    )]
    Reserved {
        /// What was asked for.
        reserved: u32,
        /// What there is.
        most: u32,
    },
    /// The machine, or the tenant, may not have so many sandboxes.
    #[error(
        "A provisioned concurrency of {provisioned} is more than there can be sandboxes: give at most {most} \
         (sandbox.max_sandboxes, and max_sandboxes and endpoints of its tenant's network)"
    )]
    Sandboxes {
        /// What was asked for.
        provisioned: u32,
        /// What there is.
        most: u32,
    },
    /// They would not fit into memory.
    #[error(
        "A provisioned concurrency of {provisioned} takes {needed_mb} MiB, {sandbox_mb} MiB each, and {free_mb} MiB are \
         provisioned for no other function: give at most {}",
        free_mb / sandbox_mb
    )]
    Memory {
        /// What was asked for.
        provisioned: u32,
        /// What it takes, MiB.
        needed_mb: u64,
        /// One of them, MiB.
        sandbox_mb: u64,
        /// What there is, MiB.
        free_mb: u64,
    },
}

/// Whether a function can have what is `wanted` where `others` have what they have.
///
/// # Errors
/// When it cannot, with what it can.
pub fn check(wanted: &Demand, others: &[Demand], bounds: Bounds) -> Result<(), ConcurrencyError> {
    let provisioned = wanted.provisioned;
    if let Some(reserved) = wanted.reserved {
        if provisioned > reserved {
            return Err(ConcurrencyError::BeyondReserved { provisioned, reserved });
        }
        let taken = |other: &Demand| other.reserved.unwrap_or(0);
        let most = left(wanted, others, bounds, taken).saturating_sub(UNRESERVED);
        // Zero reserves nothing.
        if reserved > most && reserved > 0 {
            return Err(ConcurrencyError::Reserved { reserved, most });
        }
    }
    if provisioned == 0 {
        return Ok(());
    }
    let most = left(wanted, others, bounds, |other| other.provisioned);
    if provisioned > most {
        return Err(ConcurrencyError::Sandboxes { provisioned, most });
    }
    let of_all = others.iter().map(Demand::provisioned_mb);
    let of_tenant = others.iter().filter(|other| other.tenant == wanted.tenant).map(Demand::provisioned_mb);
    let free_mb = bounds
        .capacity_mb
        .saturating_sub(of_all.fold(0, u64::saturating_add))
        .min(bounds.tenant_mb.saturating_sub(of_tenant.fold(0, u64::saturating_add)));
    let (needed_mb, sandbox_mb) = (wanted.provisioned_mb(), wanted.sandbox_mb.max(1));
    if needed_mb > free_mb {
        return Err(ConcurrencyError::Memory { provisioned, needed_mb, sandbox_mb, free_mb });
    }
    Ok(())
}

/// Sandboxes of the machine and of the tenant that others leave.
fn left(wanted: &Demand, others: &[Demand], bounds: Bounds, taken: fn(&Demand) -> u32) -> u32 {
    let of_all = others.iter().map(taken).fold(0, u32::saturating_add);
    let of_tenant = others.iter().filter(|other| other.tenant == wanted.tenant).map(taken);
    let of_tenant = of_tenant.fold(0, u32::saturating_add);
    bounds.sandboxes.saturating_sub(of_all).min(bounds.tenant_sandboxes.saturating_sub(of_tenant))
}

/// How far a function is that is to have so many sandboxes.
pub fn state(requested: u32, standing: &Standing) -> ProvisionedState {
    match &standing.failure {
        _ if standing.up >= requested => ProvisionedState::Ready,
        Some(failure) => ProvisionedState::Failed(chain(failure)),
        None => ProvisionedState::InProgress,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::bring_up::StartFailure;

    const BOUNDS: Bounds = Bounds { capacity_mb: 1000, sandboxes: 10, tenant_mb: 600, tenant_sandboxes: 8 };

    fn demand(tenant: &str, reserved: Option<u32>, provisioned: u32) -> Demand {
        Demand { tenant: tenant.to_owned(), reserved, provisioned, sandbox_mb: 100 }
    }

    #[test]
    fn what_is_too_much_is_told_with_what_is_not() {
        use ConcurrencyError::{BeyondReserved, Memory, Reserved, Sandboxes};
        let memory = |provisioned: u32, free_mb| Memory {
            provisioned,
            needed_mb: 100 * u64::from(provisioned),
            sandbox_mb: 100,
            free_mb,
        };
        let small = Demand { sandbox_mb: 10, ..demand("a", None, 8) };
        for (wanted, others, expected) in [
            (demand("a", None, 0), vec![], Ok(())),
            (demand("a", Some(7), 6), vec![], Ok(())),
            (demand("a", Some(8), 0), vec![], Err(Reserved { reserved: 8, most: 7 })),
            (demand("a", Some(2), 3), vec![], Err(BeyondReserved { provisioned: 3, reserved: 2 })),
            (demand("a", Some(0), 1), vec![], Err(BeyondReserved { provisioned: 1, reserved: 0 })),
            (demand("a", Some(5), 0), vec![demand("a", Some(3), 0)], Err(Reserved { reserved: 5, most: 4 })),
            (demand("a", Some(5), 0), vec![demand("b", Some(7), 0)], Err(Reserved { reserved: 5, most: 2 })),
            // Shutting a function off takes nothing from anybody.
            (demand("a", Some(0), 0), vec![demand("a", Some(99), 99)], Ok(())),
            (demand("a", None, 7), vec![], Err(memory(7, 600))),
            (demand("a", None, 6), vec![demand("b", None, 4)], Ok(())),
            (demand("a", None, 6), vec![demand("b", None, 5)], Err(Sandboxes { provisioned: 6, most: 5 })),
            (demand("a", None, 3), vec![demand("a", None, 4)], Err(memory(3, 200))),
            (small.clone(), vec![], Ok(())),
            (small, vec![demand("a", None, 1)], Err(Sandboxes { provisioned: 8, most: 7 })),
        ] {
            assert_eq!(check(&wanted, &others, BOUNDS), expected, "{wanted:?} {others:?}");
        }
        let said = memory(7, 600).to_string();
        assert!(said.contains("700 MiB") && said.ends_with("give at most 6"), "{said}");
    }

    #[test]
    fn the_state_is_that_of_the_sandboxes() {
        let failure = Some(Arc::new(StartFailure::InitTimeout { seconds: 9 }));
        let state = |up, failure| state(2, &Standing { there: 2, up, failure });
        assert_eq!(state(1, None), ProvisionedState::InProgress);
        assert_eq!(state(2, failure.clone()), ProvisionedState::Ready);
        let ProvisionedState::Failed(reason) = state(1, failure) else { panic!() };
        assert_eq!(reason, "Initialisation timed out after 9 s");
    }

    fn any_demand() -> impl Strategy<Value = Demand> {
        ("[ab]", prop::option::of(any::<u32>()), any::<u32>(), any::<u64>()).prop_map(
            |(tenant, reserved, provisioned, sandbox_mb)| Demand {
                tenant,
                reserved,
                provisioned,
                sandbox_mb,
            },
        )
    }

    fn small_demand() -> impl Strategy<Value = Demand> {
        ("[ab]", prop::option::of(0..6_u32), 0..6_u32, 1..300_u64).prop_map(
            |(tenant, reserved, provisioned, sandbox_mb)| Demand {
                tenant,
                reserved,
                provisioned,
                sandbox_mb,
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_is_promised_twice(demands in prop::collection::vec(small_demand(), 1..12)) {
            let mut granted: Vec<Demand> = Vec::new();
            for wanted in demands {
                if check(&wanted, &granted, BOUNDS).is_ok() {
                    granted.push(wanted);
                }
                for tenant in ["a", "b", ""] {
                    let some = || granted.iter().filter(|demand| tenant.is_empty() || demand.tenant == tenant);
                    let (sandboxes, mb) = match tenant {
                        "" => (BOUNDS.sandboxes, BOUNDS.capacity_mb),
                        _ => (BOUNDS.tenant_sandboxes, BOUNDS.tenant_mb),
                    };
                    prop_assert!(some().filter_map(|demand| demand.reserved).sum::<u32>() < sandboxes);
                    prop_assert!(some().map(|demand| demand.provisioned).sum::<u32>() <= sandboxes);
                    prop_assert!(some().map(Demand::provisioned_mb).sum::<u64>() <= mb);
                }
            }
        }

        #[test]
        fn no_number_is_too_much(wanted in any_demand(), others in prop::collection::vec(any_demand(), 0..4)) {
            if let Err(error) = check(&wanted, &others, BOUNDS) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
