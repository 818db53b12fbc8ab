use std::io::Read;
use std::net::TcpListener;

use super::*;

#[test]
fn a_client_is_gone_only_when_it_has_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    assert!(!is_gone(&served).unwrap());
    Write::write_all(&mut &client, b"more").unwrap();
    assert!(!is_gone(&served).unwrap(), "a client that still sends is connected");
    // The check consumes no bytes, and a read still waits.
    served.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut sent = [0; 4];
    Read::read_exact(&mut &served, &mut sent).unwrap();
    assert_eq!(&sent, b"more");
    drop(client);
    while !is_gone(&served).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
