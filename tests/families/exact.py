"""log p of each family in mpmath, as its definition says it, and derivatives by its differences."""

import mpmath as mp

mp.mp.dps = 40


def cdf(link, x):
    """Return F and 1 - F."""
    x = mp.mpf(x)
    if link == "logit":
        return 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    if link == "probit":
        return mp.erfc(-x / mp.sqrt(2)) / 2, mp.erfc(x / mp.sqrt(2)) / 2
    return -mp.expm1(-mp.exp(x)), mp.exp(-mp.exp(x))


def logarithm(p, other):
    """Return log p of p + other = 1."""
    return mp.log(p) if p < other else mp.log1p(-other)


def binomial(link, trials=1):
    def log_density(y, eta):
        success, failure = cdf(link, eta)
        value = mp.log(mp.binomial(trials, y))
        value += y * logarithm(success, failure) if y else 0
        return value + ((trials - y) * logarithm(failure, success) if trials > y else 0)

    return log_density


def poisson(y, eta):
    return y * eta - mp.exp(eta) - mp.loggamma(y + 1)


def negative_binomial(y, eta, phi):
    rising = mp.fsum(mp.log1p(j * phi) for j in range(int(y)))
    t = phi * mp.exp(eta)
    share = mp.log1p(t) / phi if phi else mp.exp(eta)
    return rising + y * eta - y * mp.log1p(t) - share - mp.loggamma(y + 1)


def gamma(y, eta, phi):
    shape = 1 / mp.mpf(phi)
    rate = shape / mp.exp(eta)
    return shape * mp.log(rate) - mp.loggamma(shape) + (shape - 1) * mp.log(y) - rate * y


def ordinal(link, categories):
    def log_density(y, eta, *cutpoints):
        k = int(y)
        lower = -mp.inf if k == 0 else cutpoints[k - 1] - eta
        upper = mp.inf if k == categories - 1 else cutpoints[k] - eta
        if lower == -mp.inf:
            return logarithm(*cdf(link, upper))
        if upper == mp.inf:
            return logarithm(*reversed(cdf(link, lower)))
        turned = lower + upper > 0  # the difference of the small tails has digits
        a, b = (cdf(link, end)[int(turned)] for end in (lower, upper))
        return mp.log(abs(b - a))

    return log_density


def in_eta(log_density, y, eta, psi=()):
    """Return the value and three derivatives in η."""
    psi = [mp.mpf(float(p)) for p in psi]
    found = mp.taylor(lambda e: log_density(float(y), e, *psi), mp.mpf(float(eta)), 3, chop=False)
    return [float(c * mp.factorial(k)) for k, c in enumerate(found)]


def in_psi(log_density, y, eta, psi, which):
    """Return ∂/∂ψ of the value and of its first two derivatives in η."""

    def at(p, order):
        others = [mp.mpf(float(v)) for v in psi]
        others[which] = p
        return mp.diff(lambda e: log_density(float(y), e, *others), mp.mpf(float(eta)), order)

    return [float(mp.diff(lambda p, order=order: at(p, order), mp.mpf(float(psi[which])))) for order in range(3)]
