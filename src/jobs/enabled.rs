//! Whether this core follows jobs at all: the feature `jobs`.
//!
//! Without it an [`IfJobs`] cannot be there, so whatever would be done with one is dead code.

pub use choice::{ENABLED, IfJobs, if_jobs, pointer};

#[cfg(feature = "jobs")]
mod choice {
    /// Whether jobs are followed here.
    pub const ENABLED: bool = true;

    /// A pointer to what only jobs have.
    pub type IfJobs<P> = P;

    /// Makes one, where it can be.
    pub const fn if_jobs<P>(pointer: P) -> Option<IfJobs<P>> {
        Some(pointer)
    }

    /// What is in it.
    pub fn pointer<P>(held: IfJobs<P>) -> P {
        held
    }
}

#[cfg(not(feature = "jobs"))]
mod choice {
    use serde::{Serialize, Serializer};
    use std::{
        convert::Infallible,
        marker::PhantomData,
        ops::{Deref, DerefMut},
    };

    /// Whether jobs are followed here.
    pub const ENABLED: bool = false;

    /// What cannot be there.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct IfJobs<P>(Infallible, PhantomData<P>);

    /// None.
    pub fn if_jobs<P>(_: P) -> Option<IfJobs<P>> {
        None
    }

    /// Never called.
    pub fn pointer<P>(held: IfJobs<P>) -> P {
        match held.0 {}
    }

    impl<P> Serialize for IfJobs<P> {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            match self.0 {}
        }
    }

    impl<P: Deref> Deref for IfJobs<P> {
        type Target = P::Target;

        fn deref(&self) -> &P::Target {
            match self.0 {}
        }
    }

    impl<P: DerefMut> DerefMut for IfJobs<P> {
        fn deref_mut(&mut self) -> &mut P::Target {
            match self.0 {}
        }
    }
}
