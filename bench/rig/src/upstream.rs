//! The upstream: writes prepared bytes to whoever asks for them.

use crate::{
    Outcome,
    answers::{Answer, Answers, Kind},
    http::Messages,
};
use std::{
    io::{Read, Result, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// One thread per connection, of which there are hundreds.
const STACK: usize = 64 * 1024;

/// To a request that has not come through whole.
const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

/// Says its port on standard output, and answers for ever.
pub fn serve(answers: Answers, pace_ms: u64) -> Outcome<()> {
    let answers = Arc::new(answers);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    for socket in listener.incoming() {
        let (socket, answers) = (socket?, Arc::clone(&answers));
        // A connection that breaks shows in what its client gets.
        let talk = move || drop(talk(socket, &answers, Duration::from_millis(pace_ms)));
        thread::Builder::new().stack_size(STACK).spawn(talk)?;
    }
    Ok(())
}

fn talk(mut socket: TcpStream, answers: &Answers, pace: Duration) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut requests = Messages::new(socket.try_clone()?);
    while requests.request()? {
        let mut body = Vec::new();
        while let Some(piece) = requests.piece()? {
            body.extend_from_slice(piece);
        }
        match Kind::of(&body) {
            None => socket.write_all(REFUSAL)?,
            Some(kind) => write(&mut socket, answers.of(kind), pace)?,
        }
        if Kind::of(&body).is_some_and(Kind::is_open) {
            socket.read_exact(&mut [0])?; // nothing comes, and then its end
        }
    }
    Ok(())
}

/// Step by step, each `pace` behind the one before. A step that is late makes up for nothing: two at once would be
/// read at once.
fn write(socket: &mut TcpStream, answer: &Answer, pace: Duration) -> Result<()> {
    let mut due = Instant::now();
    for (index, step) in answer.steps.iter().enumerate() {
        if index > 0 {
            due = (due + pace).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        socket.write_all(step)?;
    }
    Ok(())
}
