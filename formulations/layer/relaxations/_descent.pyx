# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""Block coordinate descent on a node, compiled: see :mod:`.descent`, which describes the class.

:mod:`.descent_numpy` takes the same steps where no compiler was at hand.
"""

from libc.math cimport copysign, fabs, sqrt

import numpy as np

cdef extern from *:
    """
    /* One variant for every width of vectors, chosen when the module is loaded. No flag lets the
       compiler fuse or reorder: the arithmetic of the bound stays as it is written. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define VARIANTS __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define VARIANTS
    #endif

    /* residual (columns, rows) -= delta (columns, block) . gram (block, rows) */
    VARIANTS static void subtract_product(const double *gram, const double *delta,
        double *residual, Py_ssize_t block, Py_ssize_t columns, Py_ssize_t rows) {
        for (Py_ssize_t o = 0; o < columns; o++) {
            double *to = residual + o * rows;
            for (Py_ssize_t i = 0; i < block; i++) {
                const double *from = gram + i * rows;
                const double factor = delta[o * block + i];
                #pragma omp simd
                for (Py_ssize_t k = 0; k < rows; k++) to[k] -= factor * from[k];
            }
        }
    }

    /* of min(size, limit) the sum of squares, and what is beyond the limit */
    VARIANTS static void split_at(const double *size, Py_ssize_t count, double limit,
        double *squares, double *beyond) {
        double within = 0.0, over = 0.0;
        #pragma omp simd reduction(+:within, over)
        for (Py_ssize_t i = 0; i < count; i++) {
            const double part = size[i] < limit ? size[i] : limit;
            within += part * part;
            over += size[i] - part;
        }
        *squares = within;
        *beyond = over;
    }
    """
    void subtract_product(const double *gram, const double *delta, double *residual,
                          Py_ssize_t block, Py_ssize_t columns, Py_ssize_t rows) noexcept nogil
    void split_at(const double *size, Py_ssize_t count, double limit,
                  double *squares, double *beyond) noexcept nogil


cdef void _shrink(
    double *size, Py_ssize_t count, double step, double ridge, double price, double bound, bint free
) noexcept nogil:
    """The proximal step of one group's magnitudes, in place."""
    cdef Py_ssize_t i
    cdef double squares = 0.0, peak = 0.0, z = 0.0, beyond, factor, low, high, y
    cdef double shrink = 1.0 / (1.0 + 2.0 * step * ridge)
    cdef double radius = sqrt(price / ridge)
    for i in range(count):
        squares += size[i] * size[i]
        peak = max(peak, size[i])
    cdef double norm = sqrt(squares)
    cdef double slack = norm - 2.0 * step * sqrt(ridge * price)
    if not free or slack > radius:
        factor = shrink
    else:
        factor = max(slack, 0.0) / norm if norm > 0.0 else 0.0
    y = min(1.0, factor * norm / radius) if free else 1.0
    if factor == 0.0 or peak == 0.0 or peak * factor <= bound * y:
        for i in range(count):
            size[i] *= factor
        return
    if free:
        # the slope in z is a price less what the weights save; it increases
        low, high = 0.0, peak / bound
        for _ in range(60):
            z = 0.5 * (low + high)
            split_at(size, count, bound * z, &squares, &beyond)
            if price - ridge * squares / (z * z) - bound * beyond / step < 0.0:
                low = z
            else:
                high = z
        z = 0.5 * (low + high)
        y = min(1.0, max(0.0, z - 2.0 * step * ridge))
    if y < 1.0:
        for i in range(count):
            size[i] = y * min(size[i] / z, bound)
    else:
        for i in range(count):
            size[i] = min(size[i] * shrink, bound)


cdef class Descent:
    """As :class:`.descent_numpy.Descent`, compiled."""

    cdef readonly object weights, surplus
    cdef object _gram, _image
    cdef const double[:, ::1] gram, cross
    cdef double[:, ::1] image, residual, w
    cdef const double[::1] ridge, price, bound, lipschitz
    cdef const unsigned char[::1] free
    cdef double[::1] size, delta, gained
    cdef Py_ssize_t block, groups, columns, rows, next
    cdef double constant, rounding, gram_norm, cross_norm

    def __init__(self, gram, cross, double constant, ridge, price, bound, lipschitz, free, weights,
                 double rounding):
        self.gram = self._gram = gram
        self.cross = cross
        self.constant, self.rounding = constant, rounding
        self.ridge, self.price, self.bound, self.lipschitz = ridge, price, bound, lipschitz
        self.free = free.view(np.uint8)
        self.columns, self.rows = cross.shape
        self.groups = len(ridge)
        self.block = self.rows // self.groups
        self.w = self.weights = weights
        self.image = self._image = np.empty_like(weights)
        self.residual = np.empty_like(weights)
        self.gained = self.surplus = np.empty(self.groups)
        self.size = np.empty(self.block * self.columns)
        self.delta = np.empty(self.block * self.columns)
        self.gram_norm = sqrt(np.vdot(gram, gram))
        self.cross_norm = sqrt(np.vdot(cross, cross))
        self.next = 0

    def look(self):
        np.matmul(self.weights, self._gram, out=self._image)
        cdef double relaxed = 0.0, dual = 0.0
        with nogil:
            self._look(&relaxed, &dual)
        return relaxed, dual

    def advance(self, Py_ssize_t steps):
        with nogil:
            for _ in range(steps):
                self._step(self.next)
                self.next += 1
                if self.next == self.groups:
                    self.next = 0

    cdef void _step(self, Py_ssize_t j) noexcept nogil:
        cdef Py_ssize_t first = j * self.block, i, o, at
        cdef double step = 1.0 / self.lipschitz[j], old, new
        cdef bint moved = False
        for o in range(self.columns):
            for i in range(self.block):
                at = o * self.block + i
                new = self.w[o, first + i] + step * self.residual[o, first + i]
                self.delta[at] = new
                self.size[at] = fabs(new)
        _shrink(&self.size[0], self.block * self.columns, step, self.ridge[j], self.price[j],
                self.bound[j], self.free[j])
        for o in range(self.columns):
            for i in range(self.block):
                at = o * self.block + i
                old = self.w[o, first + i]
                new = copysign(self.size[at], self.delta[at])
                self.delta[at] = new - old
                moved = moved or new != old
                self.w[o, first + i] = new
        if moved:
            subtract_product(&self.gram[first, 0], &self.delta[0], &self.residual[0, 0],
                             self.block, self.columns, self.rows)

    cdef void _look(self, double *relaxed, double *dual) noexcept nogil:
        cdef Py_ssize_t j, i, o
        cdef double quadratic = 0.0, linear = 0.0, length = 0.0, image = 0.0
        cdef double w, v, a, c, limit, squares, peak, conjugate, dual_squares, reach, norm, y
        for o in range(self.columns):
            for i in range(self.rows):
                w, v = self.w[o, i], self.image[o, i]
                self.residual[o, i] = self.cross[o, i] - v
                quadratic += w * v
                linear += w * self.cross[o, i]
                length += w * w
                image += v * v
        length = sqrt(length)
        # as safe_bound.dual_point: of v, of the quadratic form and of the sums
        reach = self.rounding * (self.cross_norm + self.gram_norm * length)
        cdef double magnitude = fabs(self.constant) + length * sqrt(image)
        cdef double value = 0.5 * quadratic - linear + self.constant
        cdef double bound = self.constant - 0.5 * quadratic - 0.5 * reach * length
        for j in range(self.groups):
            a, c, limit = self.ridge[j], self.price[j], self.bound[j]
            squares = peak = conjugate = dual_squares = 0.0
            for o in range(self.columns):
                for i in range(j * self.block, (j + 1) * self.block):
                    w, v = fabs(self.w[o, i]), fabs(self.residual[o, i])
                    squares += w * w
                    peak = max(peak, w)
                    if v <= 2.0 * a * limit:
                        dual_squares += v * v
                    else:
                        conjugate += (v + reach) * limit - a * limit * limit
            norm = sqrt(dual_squares) + reach
            conjugate += norm * norm / (4.0 * a)
            magnitude += conjugate + c
            self.gained[j] = conjugate - c
            if not self.free[j]:
                value += a * squares + c
                bound -= self.gained[j]
                continue
            y = min(1.0, max(sqrt(squares * a / c), peak / limit))
            if y > 0.0:
                value += a * squares / y + c * y
            if self.gained[j] > 0.0:
                bound -= self.gained[j]
        relaxed[0] = value
        dual[0] = bound - self.rounding * magnitude
