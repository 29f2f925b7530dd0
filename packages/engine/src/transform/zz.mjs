import { compileFunction } from './function-source.ts';
import { Sandbox } from './sandbox.ts';
const LIM = { callMs: 1000, memoryBytes: 64<<20, resultBytes: 8<<20 };
const mk = (over={}) => Buffer.from(JSON.stringify({record:{id:1,name:'Avocado',price:"4.99",qty:5,desc:'x'.repeat(60)},changes:{price:"5.99"},action:'update',metadata:{table_schema:'public',table_name:'products',commit_timestamp:'2026-01-02T03:04:05.123456Z',commit_lsn:123456789,commit_idx:3,idempotency_key:'MTIzNDU2Nzg5OjM=',transaction_annotations:null,record_pks:[1],enrichment:null,database_name:'shop',database:{id:'0d2f2f6e-2a3b-4b1c-9f0e-111111111111',name:'shop',annotations:{},database:'shop',hostname:'localhost'},consumer:{id:'0d2f2f6e-2a3b-4b1c-9f0e-111111111112',name:'s',annotations:{}}},...over}));
export async function go(fns, body=mk(), n=1) {
  const s = new Sandbox(fns.map(f=>compileFunction({name:f.type, ...f})), LIM);
  const t0=performance.now();
  const r = await s.open(); 
  if (r) { console.log('OPEN', r); return }
  const t1=performance.now();
  const a = s.run(body,0,body.length);
  console.log((t1-t0).toFixed(1), a.bytes? a.kind+' '+a.routeEnd+' '+a.bytes.toString().slice(0,300) : a, s.isOpen);
  if (n>1) { for(let i=0;i<2000;i++) s.run(body,0,body.length); const t=performance.now(); for(let i=0;i<n;i++) s.run(body,0,body.length); console.log('   us/msg', ((performance.now()-t)*1000/n).toFixed(2)) }
}
const b=mk(); console.log(b.length);
await go([{type:'filter',code:'(a,r,c,m) => r.price !== c.price'}], b, 30000);
await go([{type:'filter',code:'export function filter(action: string, record: any, changes: any): boolean { return record.qty > 3 }'},{type:'routing',code:'function route(action, record, changes, metadata) { return { topic: metadata.table_name + "." + action } }'}], b, 30000);
await go([{type:'transform',code:'export default (action, record) => ({ id: record.id, name: record.name, price: Number(record.price) })'}], b, 30000);
await go([{type:'transform',code:'export default (action, record) => record'}], mk({record:{id:1}}).toString().replace('"id":1','"id":9223372036854775807'), 1).catch(e=>console.log(e));
await go([{type:'transform',code:'export default (action, record) => record'}], Buffer.from(mk({record:{id:1}}).toString().replace('"id":1','"id":9223372036854775807')), 30000);
for (const code of ['(a,r)=>{ while(true){} }','(a,r)=>{ Promise.resolve().then(()=>{while(true){}}); return 1 }','async (a)=>1','(a)=>Promise.resolve(1)','(a)=>{ let s=[]; for(;;) s.push(new Array(1000).fill(1)) }','(a)=>"x".repeat(2**28)','(a)=>{ function f(){ f() } f() }','(a,r)=>{ const x={}; x.x=x; return x }','(a)=>{ return /^(a+)+$/.test("a".repeat(40)+"b") }','(a)=>{Object.prototype.x=1; return 1}','(a)=>{ const o={}; o.toString=1; class E extends Error{constructor(){super("q");this.name="E"}}; const e=new E(); return [o,e.name] }','(a)=>this.constructor.constructor("return typeof process")()','(a)=>(()=>{}).constructor("return typeof process+typeof globalThis.Date")()','(a)=>Symbol("x")','(a)=>10n**30n','(a)=>[1n,{a:JSON.stringify({q:12345678901234567890n})}]','(a)=>undefined','(a)=>NaN','()=>({get a(){throw new TypeError("oops")}})','()=>({toJSON(){for(;;);}})','()=>new Proxy({a:1},{get(t,k){return k=="toJSON"?undefined:t[k]}})','()=>messages([1,"a\\n",{x:2}])','()=>messages([])','()=>"raw\\ntext"','()=>[Date.now(),new Date(),Math.random(),new Date("2024-01-02T03:04:05").getHours(),new Date() instanceof Date,Date()]','()=>{throw null}','()=>{throw {get message(){for(;;);}}}','()=>{ let o={}; let p=o; for (let i=0;i<200000;i++){p.a={};p=p.a}; return o }','(a,r)=>r.name.first.x','()=>Object.getOwnPropertyNames(globalThis)', '()=>eval("1+1")', '()=>import("fs")','()=>{ globalThis.x=1 }'])
 { console.log(code.slice(0,80)); const t=performance.now(); try { await go([{type:'transform',code}]) } catch(e) { console.log('THROW', e) } const d=performance.now()-t; if (d>100) console.log('  took', d|0) }
console.log(process.memoryUsage().rss>>20);
