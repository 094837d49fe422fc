// Puts tiles of different heights into the shortest column.
const wall = document.getElementById("wall");
const place = () => {
  const width = 170, heights = new Array(Math.max(1, Math.floor(wall.clientWidth / width))).fill(0);
  wall.querySelectorAll(C.tile).forEach((tile, n) => {
    const column = heights.indexOf(Math.min(...heights)), height = 150 + ((n * 37) % 90);
    tile.style.width = "150px";
    tile.style.height = `${height}px`;
    tile.style.transform = `translate(${column * width}px, ${heights[column]}px)`;
    heights[column] += height + 20;
  });
  wall.style.height = `${Math.max(...heights)}px`;
};
place();
addEventListener("resize", place);
