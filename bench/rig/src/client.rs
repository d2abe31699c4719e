//! The clients: what an answer says, byte by byte, and how long it took.

use crate::{
    Outcome,
    answers::{Answers, Kind, request},
    http::Messages,
};
use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `count` times over so many connections, each asking again as soon as it has its answer, and prints as JSON the
/// milliseconds that all of it took, the CPU time that it took here, and what each answer took to its first byte and
/// to its end, in the order of their ends on each connection.
pub fn load(answers: &Answers, port: u16, kind: Kind, connections: usize, count: usize) -> Outcome<()> {
    let mut all = connect(answers, port, kind, connections)?;
    let asked = AtomicUsize::new(0);
    let began = Instant::now();
    let asks = |client: &mut Client| -> Outcome<(Vec<Took>, f64)> {
        let mut took = Vec::new();
        while asked.fetch_add(1, Ordering::Relaxed) < count {
            took.push(client.ask()?);
        }
        Ok((took, cpu_ms()?))
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = all.iter_mut().map(|client| scope.spawn(|| asks(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("A client panicked.".into()))).collect()
    });
    let ms = ms(began.elapsed());

    let (mut took, mut cpu_ms) = (Vec::new(), 0.0);
    for each in ended {
        let (its, its_cpu_ms) = each?;
        took.extend(its);
        cpu_ms += its_cpu_ms;
    }
    let list = |value: fn(&Took) -> f64| took.iter().map(|each| value(each).to_string()).collect::<Vec<_>>().join(",");
    let (first, whole) = (list(|took| took.first_byte), list(|took| took.whole));
    println!(r#"{{"ms":{ms},"cpuMs":{cpu_ms},"firstByte":[{first}],"whole":[{whole}]}}"#);
    Ok(())
}

/// Opens so many streams, one after the other, each of which has begun.
pub fn hold(answers: &Answers, port: u16, kind: Kind, connections: usize) -> Outcome<Vec<impl Sized>> {
    let mut all = connect(answers, port, kind, connections)?;
    for client in &mut all {
        client.begin()?;
    }
    Ok(all)
}

/// What an answer took, in milliseconds.
struct Took {
    first_byte: f64,
    whole: f64,
}

struct Client<'a> {
    socket: TcpStream,
    messages: Messages<TcpStream>,
    request: &'a [u8],
    expected: &'a [u8],
}

fn connect(answers: &Answers, port: u16, kind: Kind, connections: usize) -> Outcome<Vec<Client<'_>>> {
    let request: &[u8] = request(kind).leak();
    let client = |_| {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let messages = Messages::new(socket.try_clone()?);
        Ok(Client { socket, messages, request, expected: &answers.of(kind).payload })
    };
    (0..connections).map(client).collect()
}

impl Client<'_> {
    fn ask(&mut self) -> Outcome<Took> {
        let began = Instant::now();
        let first_byte = self.begin()?;
        match self.messages.piece()? {
            None => Ok(Took { first_byte: ms(first_byte - began), whole: ms(began.elapsed()) }),
            Some(more) => Err(format!("Behind its end: {}", shown(more)).into()),
        }
    }

    /// Asks and reads all that is expected, but not the end behind it. When the first byte came.
    fn begin(&mut self) -> Outcome<Instant> {
        self.socket.write_all(self.request)?;
        let status = self.messages.response()?;
        let (mut received, mut first_byte) = (0, None);
        while received < self.expected.len() {
            let Some(piece) = self.messages.piece()? else {
                return Err(format!("Status {status}, and the body ends behind byte {received}.").into());
            };
            first_byte.get_or_insert_with(Instant::now);
            if status != 200 || !self.expected[received..].starts_with(piece) {
                return Err(format!("Status {status}, and behind byte {received}: {}", shown(piece)).into());
            }
            received += piece.len();
        }
        Ok(first_byte.unwrap_or_else(Instant::now))
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The CPU time of this thread: proc(5), `schedstat`, in nanoseconds.
fn cpu_ms() -> Outcome<f64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(statistics.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e6)
}
