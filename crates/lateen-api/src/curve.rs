//! Whether two coordinates are a point on one of NIST's prime curves. Nothing secret is computed with.
//!
//! A key whose point is elsewhere is refused by every cryptographic library, and an Envoy refuses the listener that it stands in; so this is
//! asked before. Source: NIST SP 800-186, section 3.2.1.

use num_bigint::BigUint;

/// A curve: `y² = x³ - 3x + b` modulo `p`.
struct Curve {
    name: &'static str,
    p: &'static str,
    b: &'static str,
}

const CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        p: "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
        b: "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
    },
    Curve {
        name: "P-384",
        p: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
        b: "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
    },
    Curve {
        name: "P-521",
        p: "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        b: "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
    },
];

/// Whether `x` and `y`, numbers of which the first byte counts most, are a point on the curve `P-256`, `P-384` or `P-521`.
pub fn has_point(curve: &str, x: &[u8], y: &[u8]) -> bool {
    let Some(curve) = CURVES.iter().find(|known| known.name == curve) else {
        return false;
    };
    let (Some(p), Some(b)) = (of_hex(curve.p), of_hex(curve.b)) else {
        return false;
    };
    let (x, y) = (BigUint::from_bytes_be(x), BigUint::from_bytes_be(y));
    if x >= p || y >= p {
        return false;
    }
    // Minus three is three below the modulus.
    let right = (&x * &x * &x + (&p - 3_u32) * &x + b) % &p;
    (&y * &y) % p == right
}

fn of_hex(text: &str) -> Option<BigUint> {
    BigUint::parse_bytes(text.as_bytes(), 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        pairs.map(pair).collect()
    }

    /// The curves' own base points.
    const POINTS: [(&str, &str, &str); 3] = [
        (
            "P-256",
            "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        ),
        (
            "P-384",
            "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
            "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
        ),
        (
            "P-521",
            "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
            "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650",
        ),
    ];

    #[test]
    fn base_points_are_on_their_curves_and_nowhere_else() {
        for (curve, x, y) in POINTS {
            assert!(has_point(curve, &bytes(x), &bytes(y)), "{curve}");
            let mut off = bytes(y);
            *off.last_mut().unwrap() ^= 1;
            assert!(!has_point(curve, &bytes(x), &off), "{curve}");
            assert!(!has_point(curve, &bytes(y), &bytes(x)), "{curve}");
        }
        let (_, x, y) = POINTS[0];
        assert!(!has_point("P-384", &bytes(x), &bytes(y)));
        assert!(!has_point("secp256k1", &bytes(x), &bytes(y)));
    }

    #[test]
    fn a_coordinate_is_below_the_modulus() {
        let (curve, x, y) = POINTS[0];
        let above = of_hex(CURVES[0].p).unwrap() + BigUint::from_bytes_be(&bytes(x));
        let above = above.to_bytes_be();
        assert!(!has_point(curve, &above, &bytes(y)));
        assert!(!has_point(curve, &[], &[]));
        assert!(
            has_point(curve, &[vec![0; 9], bytes(x)].concat(), &bytes(y)),
            "zeros in front"
        );
    }
}
