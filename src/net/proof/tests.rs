use std::io::Write;
use std::net::TcpListener;
use std::thread;

use super::*;

fn secret() -> Secret {
    Secret::new(b"correct horse battery staple").unwrap()
}

fn other() -> Secret {
    Secret::new(b"incorrect horse battery staple").unwrap()
}

/// Both ends of a connection: the dialer and the acceptor.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (acceptor, _) = listener.accept().unwrap();
    (dialer, acceptor)
}

/// Runs one closure at each end of a connection and returns both results.
fn both<D: Send, A: Send>(
    dialer: impl FnOnce(&TcpStream) -> D + Send,
    acceptor: impl FnOnce(&TcpStream) -> A + Send,
) -> (D, A) {
    let (dialing, accepting) = pair();
    thread::scope(|scope| {
        let accepted = scope.spawn(move || acceptor(&accepting));
        let outcome = dialer(&dialing);
        drop(dialing);
        (outcome, accepted.join().unwrap())
    })
}

fn accept(secret: &Secret, stream: &TcpStream) -> Result<(), Unproven> {
    let exchange = ProofExchange::begin(stream);
    exchange.accept(secret).inspect_err(|why| exchange.refuse(why))
}

/// The next packet, unchanged.
fn frame(stream: &TcpStream) -> ProofPacket {
    ProofExchange::begin(stream).receive().unwrap()
}

fn send(mut stream: &TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

#[test]
fn two_nodes_with_the_same_secret_accept_each_other() {
    let (dialed, accepted) =
        both(|stream| prove(&secret(), stream).is_ok(), |stream| accept(&secret(), stream).is_ok());
    assert!(dialed && accepted);
}

#[test]
fn bytes_after_the_proof_are_left_for_the_next_reader() {
    let (rest, ()) = both(
        |stream| {
            prove(&secret(), stream).unwrap();
            let mut rest = [0; 7];
            let mut stream = stream;
            stream.read_exact(&mut rest).unwrap();
            assert_eq!(stream.read_timeout().unwrap(), None);
            rest
        },
        |stream| {
            let mut late = stream;
            accept(&secret(), stream).unwrap();
            late.write_all("{list}¶".as_bytes().split_at(7).0).unwrap();
        },
    );
    assert_eq!(&rest, b"{list}\xC2");
}

#[test]
fn a_peer_with_another_secret_is_rejected_on_both_sides() {
    let (dialed, accepted) = both(|stream| prove(&other(), stream), |stream| accept(&secret(), stream));
    assert!(matches!((&dialed, &accepted), (Err(Unproven::RefusesOurs), Err(Unproven::Wrong))), "{dialed:?}");
}

#[test]
fn an_acceptor_that_does_not_know_the_secret_is_not_believed() {
    let (dialed, ()) = both(
        |stream| prove(&secret(), stream),
        |stream| {
            let challenge = new_challenge().unwrap();
            send(stream, &format!("{{\"challenge\":\"{challenge}\"}}¶"));
            let answer = frame(stream);
            // The peer has two options: guess, or echo the proof that it got.
            send(stream, &format!("{{\"proof\":\"{}\"}}¶", answer.proof.unwrap()));
        },
    );
    assert!(matches!(dialed, Err(Unproven::Wrong)), "{dialed:?}");
}

#[test]
fn an_acceptor_that_asks_for_nothing_has_no_secret() {
    let lists = ["{\"uri\":\"/distributes\",\"params\":[]}¶".to_owned(), "x".repeat(5000), "[]¶".to_owned()];
    for list in lists {
        let (dialed, ()) = both(|stream| prove(&secret(), stream), |stream| send(stream, &list));
        assert!(matches!(dialed, Err(Unproven::AsksNothing)), "{dialed:?}");
    }
}

#[test]
fn a_slow_sender_of_single_bytes_is_closed_at_the_timeout() {
    let began = Instant::now();
    let ((), accepted) = both(
        |stream| {
            frame(stream);
            let mut stream = stream;
            while stream.write_all(b" ").is_ok() && began.elapsed() < 20 * PROOF_TIMEOUT {
                thread::sleep(Duration::from_millis(20));
            }
        },
        |stream| {
            let accepted = accept(&secret(), stream);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            (accepted, began.elapsed())
        },
    );
    assert!(matches!(accepted.0, Err(Unproven::Late)), "{:?}", accepted.0);
    assert!(accepted.1 >= PROOF_TIMEOUT && accepted.1 < 10 * PROOF_TIMEOUT, "{:?}", accepted.1);
}

#[test]
fn an_answer_in_pieces_is_put_together() {
    let (said, accepted) = both(
        |stream| {
            let acceptor = frame(stream).challenge.unwrap();
            let dialer = new_challenge().unwrap();
            let challenges = Challenges { acceptor: &acceptor, dialer: &dialer };
            let proof = secret().proof(ProofRole::Dialer, challenges);
            let answer = format!("{{\"challenge\":\"{dialer}\",\"proof\":\"{proof}\",\"later\":1}}¶");
            for byte in answer.as_bytes() {
                let mut stream = stream;
                stream.write_all(&[*byte]).unwrap();
            }
            frame(stream).proof
        },
        |stream| accept(&secret(), stream).is_ok(),
    );
    assert!(accepted && said.is_some());
}

#[test]
fn an_invalid_proof_is_rejected_with_a_reason() {
    let challenge = "0".repeat(64);
    let cases = [
        ("{\"uri\":\"/distributes\",\"method\":\"POST\",\"key\":0,\"params\":{}}¶".to_owned(), "no proof"),
        (format!("{{\"challenge\":\"{challenge}\"}}¶"), "no proof"),
        (format!("{{\"challenge\":\"short\",\"proof\":\"{challenge}\"}}¶"), "no proof"),
        ("null¶".to_owned(), "no proof"),
        ("\u{fffd}¶".to_owned(), "no proof"),
        ("[".repeat(1000) + "¶", "no proof"),
        (format!("{{\"challenge\":\"{challenge}\",\"proof\":\"{challenge}\"}}¶"), "another secret"),
        ("x".repeat(PROOF_MAX_BYTES + 1), "more than 1024 bytes"),
        ("x".repeat(PROOF_MAX_BYTES + 1) + "¶", "more than 1024 bytes"),
    ];
    for (answer, word) in cases {
        let (told, accepted) = both(
            |stream| {
                frame(stream);
                send(stream, &answer);
                frame(stream)
            },
            |stream| accept(&secret(), stream),
        );
        let why = accepted.unwrap_err().to_string();
        assert!(why.contains(word), "{answer}: {why}");
        assert_eq!(told.errorcode, Some(401), "{answer}");
        assert!(told.errormessage.unwrap().contains(&why), "{answer}");
    }
}
