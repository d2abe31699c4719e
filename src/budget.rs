//! Retries are paid for, from one token bucket per endpoint.
//!
//! At a low rate of failure the bucket never shows; in an outage it stops the retries that would
//! keep the endpoint down (the sustaining effect of metastable failures). The model is AWS's
//! retry quota of 2026 (transient 14, throttled 5), whose capacity gives some seven retries in a
//! row before failing fast.

use crate::policy::BudgetPolicy;

/// What has been spent of an endpoint's bucket. Empty at first: every capacity starts full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    spent: u32,
}

impl Budget {
    /// Pays for one repeat, or refuses it.
    pub fn withdraw(&mut self, policy: &BudgetPolicy, throttled: bool) -> bool {
        let spent = self.spent.saturating_add(cost(policy, throttled));
        let granted = spent <= policy.capacity;
        if granted {
            self.spent = spent;
        }
        granted
    }

    /// What was paid for is not tried.
    pub const fn give_back(&mut self, policy: &BudgetPolicy, throttled: bool) {
        self.spent = self.spent.saturating_sub(cost(policy, throttled));
    }

    /// A success gives a little back.
    pub fn refund(&mut self, policy: &BudgetPolicy) {
        self.spent = self.spent.saturating_sub(policy.refund);
    }

    /// Tokens left under this policy.
    pub fn left(&self, policy: &BudgetPolicy) -> u32 {
        policy.capacity.saturating_sub(self.spent)
    }
}

const fn cost(policy: &BudgetPolicy, throttled: bool) -> u32 {
    if throttled { policy.throttled_cost } else { policy.transient_cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BudgetPolicy = BudgetPolicy { capacity: 100, transient_cost: 14, throttled_cost: 5, refund: 1 };

    #[test]
    fn an_outage_drains_the_bucket_and_health_fills_it_slowly() {
        let mut budget = Budget::default();
        assert_eq!((0..20).filter(|_| budget.withdraw(&POLICY, false)).count(), 7);
        assert_eq!(budget.left(&POLICY), 2);
        assert!(!budget.withdraw(&POLICY, true));
        (0..3).for_each(|_| budget.refund(&POLICY));
        assert!(budget.withdraw(&POLICY, true));
        (0..500).for_each(|_| budget.refund(&POLICY));
        assert_eq!(budget.left(&POLICY), 100);
    }
}
