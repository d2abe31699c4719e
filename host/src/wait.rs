//! A promise as a future that leaves nothing behind when it is dropped.
//!
//! `JsFuture` keeps its closures until its promise settles. In a Worker what a request waits for when its client leaves
//! may never settle: workerd drops what belongs to a request that is over.

use js_sys::Promise;
use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use wasm_bindgen::{JsValue, closure::Closure, prelude::wasm_bindgen};

#[wasm_bindgen(module = "/src/wait.js")]
extern "C" {
    #[wasm_bindgen(js_name = Wait)]
    type Listener;
    #[wasm_bindgen(constructor, js_class = "Wait")]
    fn new(promise: &Promise, told: &Told) -> Listener;
    #[wasm_bindgen(method, js_class = "Wait")]
    fn leave(this: &Listener);
}

type Told = Closure<dyn FnMut(bool, JsValue)>;

/// What a promise comes to.
pub struct Wait {
    listener: Listener,
    state: Rc<RefCell<State>>,
    /// Called by the listener until that is left.
    _told: Told,
}

#[derive(Default)]
struct State {
    settled: Option<Result<JsValue, JsValue>>,
    waker: Option<Waker>,
}

impl From<Promise> for Wait {
    fn from(promise: Promise) -> Self {
        let state = Rc::new(RefCell::new(State::default()));
        let shared = Rc::clone(&state);
        let told = Told::new(move |well, value| {
            let mut state = shared.borrow_mut();
            state.settled = Some(if well { Ok(value) } else { Err(value) });
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        Self { listener: Listener::new(&promise, &told), state, _told: told }
    }
}

impl Future for Wait {
    type Output = Result<JsValue, JsValue>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state.borrow_mut();
        match state.settled.take() {
            Some(settled) => Poll::Ready(settled),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.listener.leave();
    }
}
