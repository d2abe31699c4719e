//! A signal as the client's going.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::AbortSignal;

/// Notices that the client has left, from the signal of its request.
pub struct Departure {
    signal: AbortSignal,
    state: Rc<RefCell<Presence>>,
    listener: Closure<dyn FnMut()>,
}

/// The signal's own field is not asked at every turn, because that crosses into JavaScript.
struct Presence {
    left: bool,
    waker: Option<Waker>,
}

impl Departure {
    /// From this signal.
    pub fn new(signal: AbortSignal) -> Self {
        let state = Rc::new(RefCell::new(Presence { left: signal.aborted(), waker: None }));
        let shared = Rc::clone(&state);
        let listener = Closure::new(move || {
            let mut state = shared.borrow_mut();
            state.left = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        // A signal always takes a listener.
        let _ = signal.add_event_listener_with_callback("abort", listener.as_ref().unchecked_ref());
        Self { signal, state, listener }
    }

    /// Ready once the client has left.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.left {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let _ = self.signal.remove_event_listener_with_callback("abort", self.listener.as_ref().unchecked_ref());
    }
}
