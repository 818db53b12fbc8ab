use super::*;

const TEXT: &[u8] = b"correct horse battery staple";

/// Two challenges, as hexadecimal digits.
fn challenges() -> (String, String) {
    ("0".repeat(64), "ab".repeat(32))
}

/// Computed by `openssl dgst -sha256 -hmac 'correct horse battery staple'` and by Python's `hmac`.
const DIALERS: &str = "bbbc7a810d46366d6d7f44fda6a2ddb0799ce6bab9e70d94c132d516fbc1fe14";
const ACCEPTORS: &str = "c3f018cf97f6225e7b45108b90f1e7c3431ce7231ca89e294b564b2f358900b9";

#[test]
fn a_proof_is_the_documented_hmac() {
    let (acceptor, dialer) = challenges();
    let both = Challenges { acceptor: &acceptor, dialer: &dialer };
    let secret = Secret::new(TEXT).unwrap();
    assert_eq!(secret.proof(ProofRole::Dialer, both), DIALERS);
    assert_eq!(secret.proof(ProofRole::Acceptor, both), ACCEPTORS);
    // A secret longer than a block of SHA-256 is hashed first.
    let long = Secret::new(&[b'k'; 200]).unwrap().proof(ProofRole::Dialer, both);
    assert_eq!(long, "49d1d1d689a97ac9e48257f93dc70a22bee039539ad73de75cb154ac9be99aca");
}

#[test]
fn a_proof_holds_for_its_role_its_challenges_and_its_secret_alone() {
    let (acceptor, dialer) = challenges();
    let both = Challenges { acceptor: &acceptor, dialer: &dialer };
    let (secret, other) =
        (Secret::new(TEXT).unwrap(), Secret::new(b"another secret of 30 bytes ...").unwrap());
    assert!(secret.is_proven(ProofRole::Dialer, both, DIALERS));
    assert!(secret.is_proven(ProofRole::Acceptor, both, ACCEPTORS));
    assert!(!secret.is_proven(ProofRole::Acceptor, both, DIALERS));
    assert!(!secret.is_proven(ProofRole::Dialer, both, ACCEPTORS));
    assert!(!other.is_proven(ProofRole::Dialer, both, DIALERS));
    let swapped = Challenges { acceptor: &dialer, dialer: &acceptor };
    assert!(!secret.is_proven(ProofRole::Dialer, swapped, DIALERS));
}

#[test]
fn an_invalid_proof_is_not_accepted() {
    let (acceptor, dialer) = challenges();
    let both = Challenges { acceptor: &acceptor, dialer: &dialer };
    let secret = Secret::new(TEXT).unwrap();
    let other_last = format!("{}5", &DIALERS[..63]);
    let bad = ["", "b", &DIALERS[..62], &DIALERS[..63], &other_last, &DIALERS.to_uppercase(), "é", "zz"];
    for text in bad {
        assert!(!secret.is_proven(ProofRole::Dialer, both, text), "{text}");
    }
    assert!(!secret.is_proven(ProofRole::Dialer, both, &format!("{DIALERS}00")));
}

#[test]
fn challenges_are_64_digits_and_never_the_same() {
    let (one, two) = (new_challenge().unwrap(), new_challenge().unwrap());
    assert!(is_challenge(&one) && is_challenge(&two));
    assert_ne!(one, two);
    for text in
        ["", "00", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)]
    {
        assert!(!is_challenge(text), "{text}");
    }
}

#[test]
fn white_space_around_a_secret_is_ignored() {
    let secret = Secret::new(TEXT).unwrap();
    assert_eq!(Secret::new(b" \tcorrect horse battery staple\r\n").unwrap(), secret);
    assert_ne!(Secret::new(b"correct horse battery staplE").unwrap(), secret);
}

#[test]
fn a_secret_that_is_none_is_refused_in_words() {
    let long = vec![b'x'; MAX_SECRET_BYTES + 1];
    let cases: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"fifteen bytes..", "shorter than 16"),
        (&long, "longer than 4096"),
    ];
    for (text, word) in cases {
        let why = Secret::new(text).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
    assert!(Secret::new(b"sixteen bytes...").is_ok());
    assert!(Secret::new(&long[1..]).is_ok());
}

#[test]
fn debug_hides_a_secret() {
    assert_eq!(format!("{:?}", Secret::new(TEXT)), "Ok(Secret(hidden))");
}
