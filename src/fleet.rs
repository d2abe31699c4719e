//! What the calls of one isolate know together about its endpoints. Plain data: nothing in here
//! belongs to one request.

use crate::budget::Budget;

/// The shared state of all endpoints, by their place in `CONFIG`.
#[derive(Debug, Default)]
pub struct Fleet {
    budgets: Vec<Budget>,
}

impl Fleet {
    /// The retry budget of this endpoint.
    pub fn budget(&mut self, endpoint: usize) -> &mut Budget {
        if self.budgets.len() <= endpoint {
            self.budgets.resize(endpoint.saturating_add(1), Budget::default());
        }
        // Just made long enough.
        #[expect(clippy::indexing_slicing, reason = "the line above makes room for this index")]
        &mut self.budgets[endpoint]
    }
}
