// The contour of each class of a mask as smooth paths in mask pixels, and the mask as a translucent picture.
// Shapes: grid is bytes of [h, w]; the unit of a path is one mask pixel, whose centre is at .5.
// Of overlapping classes a byte has a bit for each, the lowest for class 1.

export function contours(grid, height, width, overlapping = false) {
  const present = new Set(grid);
  present.delete(0);
  const paths = new Map();
  if (overlapping) {
    for (const value of [1, 2, 3, 4, 5, 6, 7].filter((k) => [...present].some((bits) => bits >> (k - 1) & 1)))
      paths.set(value, contour(grid.map((bits) => bits >> (value - 1) & 1), height, width, 1));
    return paths;
  }
  for (const value of [...present].sort()) paths.set(value, contour(grid, height, width, value));
  return paths;
}

function contour(grid, height, width, value) {
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of segments(grid, height, width, value)) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  return path;
}

// The contour of a region of ones as connected lines, which can be dashed.
export function regionOutline(grid, height, width) {
  const parts = segments(grid, height, width, 1), path = new Path2D();
  const ends = new Map(), used = new Uint8Array(parts.length), key = (x, y) => `${x},${y}`;
  parts.forEach(([x0, y0, x1, y1], i) => {
    for (const name of [key(x0, y0), key(x1, y1)]) ends.has(name) ? ends.get(name).push(i) : ends.set(name, [i]);
  });
  parts.forEach(([x0, y0], i) => {
    if (used[i]) return;
    path.moveTo(x0, y0);
    for (let x = x0, y = y0, next = i; next !== undefined; next = ends.get(key(x, y)).find((k) => !used[k])) {
      used[next] = 1;
      const [a, b, c, d] = parts[next];
      [x, y] = a === x && b === y ? [c, d] : [a, b];
      path.lineTo(x, y);
    }
  });
  return path;
}

// The contour of a class as [x0, y0, x1, y1], in no order.
function segments(grid, height, width, value) {
  const soft = softened(grid, height, width, value);
  const found = [];
  const at = (y, x) => soft[(y + 1) * (width + 2) + x + 1];
  const cross = (a, b) => (0.5 - a) / (b - a);
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const a = at(y, x), b = at(y, x + 1), c = at(y + 1, x + 1), d = at(y + 1, x);
      const kind = (a > 0.5) | ((b > 0.5) << 1) | ((c > 0.5) << 2) | ((d > 0.5) << 3);
      if (kind === 0 || kind === 15) continue;
      const points = [];
      if ((a > 0.5) !== (b > 0.5)) points.push([x + cross(a, b), y]);
      if ((b > 0.5) !== (c > 0.5)) points.push([x + 1, y + cross(b, c)]);
      if ((d > 0.5) !== (c > 0.5)) points.push([x + cross(d, c), y + 1]);
      if ((a > 0.5) !== (d > 0.5)) points.push([x, y + cross(a, d)]);
      for (let i = 0; i + 1 < points.length; i += 2)
        found.push([points[i][0] + 0.5, points[i][1] + 0.5, points[i + 1][0] + 0.5, points[i + 1][1] + 0.5]);
    }
  }
  return found;
}

// 1 inside and 0 outside, averaged with the neighbours so that the contour at 0.5 is smooth; with a border of zeros.
// No pixel changes its side of 0.5: a structure of one pixel is still drawn.
function softened(grid, height, width, value) {
  const row = width + 2;
  const hard = new Float32Array((height + 2) * row);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) hard[(y + 1) * row + x + 1] = grid[y * width + x] === value ? 1 : 0;
  const half = new Float32Array(hard.length);
  for (let i = 1; i < hard.length - 1; i++) half[i] = 0.5 * hard[i] + 0.25 * (hard[i - 1] + hard[i + 1]);
  const soft = new Float32Array(hard.length);
  for (let y = 1; y <= height; y++) {
    for (let x = 1; x <= width; x++) {
      const i = y * row + x;
      const mean = 0.5 * half[i] + 0.25 * (half[i - row] + half[i + row]);
      soft[i] = hard[i] ? Math.max(mean, 0.51) : Math.min(mean, 0.49);
    }
  }
  return soft;
}

// Where classes overlap, the last visible one gives the colour.
export function filling(grid, height, width, colours, hidden, overlapping = false) {
  const picture = new ImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const table = new Uint32Array(256);
  colours.forEach((colour, i) => {
    const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
    if (hidden.has(i + 1)) return;
    const word = (255 << 24) | (b << 16) | (g << 8) | r;
    if (!overlapping) table[i + 1] = word;
    else for (let bits = 0; bits < 128; bits++) if (bits >> i & 1) table[bits] = word;
  });
  for (let i = 0; i < grid.length; i++) words[i] = table[grid[i]];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}
