// Follows the cursors of a GraphQL-like API: a button replaces the tiles, or scrolling adds to them.
let after = "", isLoading = false;
const step = async () => {
  if (isLoading || after === null) return;
  isLoading = true;
  const { data } = await getJSON(`${C.api}?operation=Emoji&after=${after}`);
  const nodes = data.emoji.edges.map((edge) => nodeOf(edge.node));
  if (C.replaces) grid().replaceChildren(...nodes);
  else grid().append(...nodes);
  after = data.emoji.pageInfo.endCursor;
  if (C.replaces) document.getElementById("next").disabled = after === null;
  isLoading = false;
};
step();
if (C.replaces) {
  document.getElementById("next").addEventListener("click", step);
} else {
  addEventListener("scroll", () => {
    if (innerHeight + scrollY > document.documentElement.scrollHeight - 300) step();
  });
}
