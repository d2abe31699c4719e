//! At most a share of calls may do something that costs more than a call.

/// What a number of calls have saved up for the few that spend it. Empty at first.
#[derive(Debug, Default)]
pub struct Share {
    saved_ppm: u32,
}

/// What one of them spends.
const ONE: u32 = 1_000_000;

/// No more is saved up than so many may spend at once: what a quiet day has saved would otherwise be spent in the first
/// minute of a bad one, by every call.
const MOST: u32 = 10 * ONE;

impl Share {
    /// A call comes, of which this share may spend, in millionths.
    pub fn on_call(&mut self, share_ppm: u32) {
        self.saved_ppm = self.saved_ppm.saturating_add(share_ppm).min(MOST);
    }

    /// Whether a call may spend.
    pub const fn has_one(&self) -> bool {
        self.saved_ppm >= ONE
    }

    /// A call has spent.
    pub const fn spend(&mut self) {
        self.saved_ppm = self.saved_ppm.saturating_sub(ONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many calls, how many spend where all would.
    fn spent(share: &mut Share, calls: u32, share_ppm: u32) -> u32 {
        let spends = |_: &u32| {
            share.on_call(share_ppm);
            let may = share.has_one();
            if may {
                share.spend();
            }
            may
        };
        u32::try_from((0..calls).filter(spends).count()).unwrap()
    }

    #[test]
    fn of_any_number_of_calls_no_more_spend_than_their_share() {
        for share_ppm in [1, 10_000, 50_000, 333_333, 999_999, ONE] {
            for calls in [1, 19, 20, 21, 100, 12_345] {
                let most = u64::from(calls) * u64::from(share_ppm) / u64::from(ONE);
                assert_eq!(u64::from(spent(&mut Share::default(), calls, share_ppm)), most, "{calls} at {share_ppm}");
            }
        }
    }

    #[test]
    fn what_was_not_spent_is_kept_for_ten() {
        let mut share = Share::default();
        (0..100_000).for_each(|_| share.on_call(50_000));
        assert_eq!(spent(&mut share, 40, 50_000), 11, "ten, and what those forty bring that come behind the first");
    }

    #[test]
    fn policies_with_other_shares_save_for_the_same_entry() {
        let mut share = Share::default();
        share.on_call(400_000);
        share.on_call(500_000);
        assert!(!share.has_one());
        share.on_call(100_000);
        assert!(share.has_one());
        share.spend();
        share.spend();
        assert!(!share.has_one());
    }
}
